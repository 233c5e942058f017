"""Durable wildcards, consents and who watches, as Redis holds them: read whole, written one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker import keys
from agentbus.broker.connection import Broker
from agentbus.broker.dead_letters import server_ms
from agentbus.errors import BrokerError, WrongKeyType
from agentbus.message.topics import is_channel

#: The name by which a consent or a binding is stored: two words without spaces.
Field = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RawTable:
    """All that publishers must know, as the server told it."""

    #: (agent, pattern) to JSON.
    bindings: Mapping[Field, bytes]
    #: (inbox, agent that serves it) to JSON.
    consents: Mapping[Field, bytes]
    #: Patterns that somebody watches with ``stored=True``.
    watched: tuple[str, ...]
    #: Server time in ms; not part of what makes two tables equal.
    server_ms: float


class BindingStore:
    """Reads and writes the table."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._bindings = keys.bindings(prefix)
        self._consents = keys.consents(prefix)
        self._copies = keys.copies(prefix)

    async def read(self) -> RawTable:
        """Return the table in one round trip; raises `BrokerError`."""
        mirrors = keys.mirror(self._prefix, "")
        bindings, consents, watched, time = await self._broker.pipeline([
            ("HGETALL", self._bindings),
            ("HGETALL", self._consents),
            ("PUBSUB", "CHANNELS", mirrors + "*"),
            ("TIME",),
        ])  # fmt: skip
        if isinstance(time, BrokerError):
            raise time
        # Watching is at most once: who may not ask who watches publishes all the same.
        channels = () if isinstance(watched, BrokerError) else watched
        return RawTable(
            _fields(bindings, self._bindings),
            _fields(consents, self._consents),
            tuple(sorted(channel.decode()[len(mirrors) :] for channel in channels)),
            int(time[0]) * 1000 + int(time[1]) / 1000,
        )

    # --- bindings ---

    async def bind(self, agent: str, pattern: str) -> bool:
        """Add a binding; False when it was there."""
        value = json.dumps({"since": await server_ms(self._broker)})
        reply = await self._broker.execute("HSETNX", self._bindings, f"{agent} {pattern}", value)
        return bool(reply == 1)

    async def unbind(self, agent: str, pattern: str) -> bool:
        """Remove a binding and its counters; False when there was none."""
        removed = await self._broker.execute("HDEL", self._bindings, f"{agent} {pattern}")
        counted = [f"{agent} {pattern} {what}" for what in (await self.counts()).get((agent, pattern), ())]
        if counted:
            await self._broker.execute("HDEL", self._copies, *counted)
        return bool(removed == 1)

    # --- consents ---

    async def consent(self, inbox: str, agent: str, copies_to: Sequence[str]) -> None:
        """Store to whom ``agent`` allows copies of what the inbox ``inbox`` gets; to nobody: withdraw it."""
        field = f"{inbox} {agent}"
        if copies_to:
            await self._broker.execute("HSET", self._consents, field, json.dumps(list(copies_to)))
        else:
            await self._broker.execute("HDEL", self._consents, field)

    async def served_since(self, inbox: str) -> bytes | None:
        """Return when an inbox was first served: another answer than before means that data was lost."""
        ledger = keys.inbox_keys(self._prefix, inbox).ledger
        served: bytes | None = await self._broker.execute("HGET", ledger, "served")
        return served

    # --- counters ---

    async def count(self, counts: Iterable[tuple[str, str, str, int]]) -> None:
        """Add to the counters of bindings: (agent, pattern, what, how many)."""
        added = [
            ("HINCRBY", self._copies, f"{agent} {pattern} {what}", many)
            for agent, pattern, what, many in counts
        ]
        if added:
            await self._broker.pipeline(added)

    async def counts(self) -> dict[Field, dict[str, int]]:
        """Return the counters of every binding, by (agent, pattern)."""
        found: dict[Field, dict[str, int]] = {}
        reply = await self._broker.execute("HGETALL", self._copies)
        for name, value in zip(reply[::2], reply[1::2], strict=True):
            words = name.decode(errors="replace").split(" ")
            if len(words) == 3 and value.isdigit():
                found.setdefault((words[0], words[1]), {})[words[2]] = int(value)
        return found

    # --- what was stored under a key ---

    async def text_at(self, address: str, place: str) -> bytes | None:
        """Return the envelope that stands at ``<lane>:<entry>`` of an address; None when it moved on."""
        lane, _, entry = place.partition(":")
        if is_channel(address):
            stream = keys.channel_keys(self._prefix, address).log
        else:
            stream = keys.inbox_keys(self._prefix, address).sources[keys.SOURCES.index(lane)]
        found = await self._broker.execute("XRANGE", stream, entry, entry)
        if not found:
            return None
        flat = found[0][1]
        return dict(zip(flat[::2], flat[1::2], strict=True)).get(b"message")

    async def place_of(self, address: str, key: str) -> str | None:
        """Return ``<lane>:<entry>`` of what was stored at an address under an idempotency key, if known."""
        found = keys.inbox_keys(self._prefix, address)
        replies = await self._broker.pipeline(
            [("HGET", bucket, key) for bucket in (found.keys_even, found.keys_odd)]
        )
        for reply in replies:
            if isinstance(reply, BrokerError):
                raise reply
            words = reply.decode().split(" ") if reply else []
            if len(words) == 3:
                return f"{words[1]}:{words[2]}"
        return None


def _fields(reply: Any, key: str) -> dict[Field, bytes]:
    if isinstance(reply, WrongKeyType):
        raise WrongKeyType(f"{key} is not a hash") from reply
    if isinstance(reply, BrokerError):
        raise reply
    found = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        first, _, second = name.decode(errors="replace").partition(" ")
        found[first, second] = value
    return found
