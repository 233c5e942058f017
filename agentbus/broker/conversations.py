"""Conversations of two agents: which there are, and how far each of the two has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentbus.broker import keys
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.subscribers import find_entry
from agentbus.broker.scripts import Call, load, run, run_all

#: Unread messages that are counted.
MOST_UNREAD = 1_000
#: Messages of a log that are looked through, newest first, to find one by its id.
_MOST_SEARCHED = 10_000


@dataclass(frozen=True, slots=True)
class ConversationState:
    """One conversation as one of its two agents has it."""

    name: str
    #: Messages of the other one that were not read; at most `MOST_UNREAD`.
    unread: int
    #: The last entry of its log, and the message there as JSON text; None and b"" when it is empty.
    last_entry: str | None
    last_message: bytes
    #: The entry up to which it was read.
    read_up_to: str


class ConversationStore:
    """Reads and writes conversations, all but their messages."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix

    async def note(self, conversation: str, agents: Sequence[str]) -> None:
        """Note for two agents that they have a conversation; before its first message."""
        names = [keys.conversations(self._prefix, agent) for agent in agents]
        for reply in await self._broker.pipeline([("SADD", name, conversation) for name in names]):
            if isinstance(reply, Exception):
                raise reply

    async def names(self, agent: str) -> list[str]:
        """Return the conversations of an agent, sorted."""
        found = await self._broker.execute("SMEMBERS", keys.conversations(self._prefix, agent))
        return sorted(name.decode(errors="replace") for name in found)

    async def states(self, agent: str, names: Sequence[str]) -> list[ConversationState]:
        """Return how an agent has some of its conversations."""
        script = load("conversation_status")
        calls = [Call(script, (self._log(name), self._read(name)), (agent, MOST_UNREAD)) for name in names]
        states = []
        for name, reply in zip(names, await run_all(self._broker, calls), strict=True):
            if isinstance(reply, Exception):
                raise reply
            unread, last, message, read = reply
            states.append(ConversationState(name, int(unread), last.decode() or None, message, read.decode()))
        return states

    async def read(self, conversation: str, agent: str, entry_id: str) -> None:
        """Note that an agent has read up to an entry; earlier than before changes nothing."""
        key = self._read(conversation)
        await run(self._broker, Call(load("conversation_read"), (key,), (agent, entry_id)))

    async def after(self, conversation: str, entry_id: str, most: int) -> list[tuple[str, bytes]]:
        """Return what follows an entry of the log: entry ids and messages as JSON text."""
        rows = await self._broker.execute(
            "XRANGE", self._log(conversation), f"({entry_id}", "+", "COUNT", most
        )
        return [(row[0].decode(), _message_of(row[1])) for row in rows]

    async def find(self, conversation: str, message_id: str) -> str | None:
        """Return the entry of a message; None when the log does not hold it any more."""
        return await find_entry(self._broker, self._prefix, conversation, message_id, _MOST_SEARCHED)

    def _log(self, conversation: str) -> str:
        return keys.channel_keys(self._prefix, conversation).log

    def _read(self, conversation: str) -> str:
        return keys.read_up_to(self._prefix, conversation)


def _message_of(flat: Sequence[bytes]) -> bytes:
    return dict(zip(flat[::2], flat[1::2], strict=True)).get(b"message", b"")
