"""Removing what has ended, by name, and whole channels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from agentbus.broker.connection import Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.inspection.look import fields_of
from agentbus.broker.inspection.walking import walk_stream
from agentbus.broker.keys import SOURCES, addresses, channel_keys, owing, subscriber_keys

#: Entries of one call: a millisecond or two of the server's time.
ERASE_STEP = 100
_PLACES = (*SOURCES, "ended", "resolved")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an inbox or a log."""

    #: ``returned``, a lane's priority, ``ended``, ``resolved``, or ``log`` of a channel.
    stream: str
    entry_id: str
    #: The envelope as JSON text; empty when it has none.
    text: bytes


class InboxEraser:
    """The streams of one inbox that hold what has ended."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self._inbox = Inbox(broker, prefix, address)
        keys = self._inbox.keys
        self._streams = (*keys.sources, keys.ended, keys.resolved)

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield everything in them, ended or not, stream by stream."""
        for stream, key in zip(_PLACES, self._streams, strict=True):
            async for entry_id, flat in walk_stream(self._broker, key):
                yield Entry(stream, entry_id.decode(), fields_of(flat or ()).get("message", b""))

    async def erase(self, entries: Sequence[Entry], *, only_look: bool = False) -> list[str]:
        """Remove what has ended; returns for each ``ended`` (gone now), ``waiting``, ``held`` or ``gone``."""
        states: list[str] = []
        for start in range(0, len(entries), ERASE_STEP):
            names = [
                part
                for entry in entries[start : start + ERASE_STEP]
                for part in (_PLACES.index(entry.stream) + 1, entry.entry_id)
            ]
            reply = await self._inbox.run("erase", self._streams, "look" if only_look else "erase", *names)
            states += [state.decode() for state in reply]
        return states


class ChannelEraser:
    """The log of one channel."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._address = address
        self._keys = channel_keys(prefix, address)

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield everything in the log."""
        async for entry_id, flat in walk_stream(self._broker, self._keys.log):
            yield Entry("log", entry_id.decode(), fields_of(flat or ()).get("message", b""))

    async def length(self) -> int:
        """Return how many entries the log holds."""
        return int(await self._broker.execute("XLEN", self._keys.log))

    async def erase(self, entries: Sequence[Entry]) -> int:
        """Remove entries; returns how many there were. Who had not read them is told of a gap."""
        erased = 0
        for start in range(0, len(entries), ERASE_STEP):
            ids = [entry.entry_id for entry in entries[start : start + ERASE_STEP]]
            erased += int(await self._broker.execute("XDEL", self._keys.log, *ids))
        return erased

    async def remove(self) -> None:
        """Remove the channel: its log, cursors, ledger, policy, schedules and owed copies, at one moment.

        Publishers' own records stay, or a batch whose answer was lost would be stored again; they expire. An
        agent that reads meanwhile loses its lease and joins anew, at an empty log.
        """
        keys, names = self._keys, list[str]()
        for agent in await self._subscribers():
            found = subscriber_keys(self._prefix, self._address, agent)
            names += [found.alive, found.started, found.subscriber, found.crashes, found.reads]
        await self._broker.execute(
            "UNLINK", keys.log, keys.ledger, keys.policy, keys.keys_even, keys.keys_odd, keys.schedules,
            keys.ticks, keys.archived, keys.cursors, keys.owed, keys.owed_messages, *names,
        )  # fmt: skip
        await self._broker.execute("SREM", addresses(self._prefix), self._address)
        await self._broker.execute("ZREM", owing(self._prefix), self._address)

    async def _subscribers(self) -> list[str]:
        (groups,) = await self._broker.pipeline([("XINFO", "GROUPS", self._keys.log)])
        if isinstance(groups, Exception):
            return []
        return [fields_of(group)["name"].decode(errors="replace") for group in groups]
