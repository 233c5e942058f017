"""Looks at what arrives at an address, without taking any of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Argument, Broker, Link
from agentbus.broker.inspection.look import EntryId, fields_of, format_id, parse_id
from agentbus.broker.keys import SOURCES, channel_keys, inbox_keys
from agentbus.errors import MalformedMessage
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.topics import is_channel

_BLOCK_MS = 2_000
#: Entries of one stream in one read.
_MOST = 100


@dataclass(frozen=True, slots=True)
class TailedEntry:
    """One entry as it stands in its stream."""

    address: str
    #: ``returned``, a lane's priority, or ``dead``; ``log`` of a channel.
    stream: str
    entry_id: str
    #: When it was added, by the server's clock, in ms; made up if the entry was made by hand.
    at_ms: int
    #: None when the entry holds no message.
    message: Message | None
    state: dict[str, Any]
    #: Everything else in the entry: the reason of a dead letter, the fields of a hand-made entry.
    fields: dict[str, str]


class Tail:
    """Follows all streams of one inbox, or the log of a channel, by plain reads; it never joins a group."""

    def __init__(self, broker: Broker, prefix: str, address: str, *, dead: bool = False) -> None:
        self._broker = broker
        self._address = address
        self._streams = _streams_of(prefix, address, dead)
        self._positions: dict[str, EntryId] = {}
        self._link: Link = broker.open_link()

    async def last(self, count: int) -> list[TailedEntry]:
        """Return the last ``count`` entries of all streams together, oldest first; `follow` goes on there."""
        commands: list[tuple[Argument, ...]] = [
            ("XREVRANGE", key, "+", "-", "COUNT", max(1, count)) for key in self._streams.values()
        ]
        entries: list[TailedEntry] = []
        for name, reply in zip(self._streams, await self._broker.pipeline(commands), strict=True):
            if isinstance(reply, Exception):
                raise reply
            if reply:
                self._positions[name] = parse_id(reply[0][0])
            entries += [self._entry(name, entry) for entry in reply]
        entries.sort(key=lambda entry: parse_id(entry.entry_id))
        return entries[-count:] if count else []

    async def follow(self) -> AsyncIterator[TailedEntry]:
        """Yield entries as they arrive, for ever; raises what the connection raises."""
        by_key = {key.encode(): name for name, key in self._streams.items()}
        while True:
            positions = [format_id(self._positions.get(name, (0, 0))) for name in self._streams]
            reply = await self._link.execute(
                "XREAD", "COUNT", _MOST, "BLOCK", _BLOCK_MS, "STREAMS", *self._streams.values(), *positions,
                timeout=_BLOCK_MS / 1000 + 2.0,
            )  # fmt: skip
            arrived: list[TailedEntry] = []
            for key, entries in reply or ():
                name = by_key[key]
                self._positions[name] = parse_id(entries[-1][0])
                arrived += [self._entry(name, entry) for entry in entries]
            for entry in sorted(arrived, key=lambda each: parse_id(each.entry_id)):
                yield entry

    def _entry(self, name: str, entry: Sequence[Any]) -> TailedEntry:
        return entry_of(self._address, name, entry)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


def _streams_of(prefix: str, address: str, dead: bool) -> dict[str, str]:
    """Return the streams to follow, by name."""
    if is_channel(address):
        return {"log": channel_keys(prefix, address).log}
    keys = inbox_keys(prefix, address)
    streams = dict(zip(SOURCES, keys.sources, strict=True))
    return {**streams, "dead": keys.dead} if dead else streams


def entry_of(address: str, stream: str, entry: Sequence[Any]) -> TailedEntry:
    """Return a raw entry with its message decoded, if it holds one."""
    entry_id, flat = entry
    fields = fields_of(flat or ())
    message = None
    try:
        message = decode(fields.get("message", b""))
        del fields["message"]
    except MalformedMessage:
        # Shown with the other fields, as it stands.
        pass
    state = read_state(fields.pop("state", b""))
    text = {name: value.decode(errors="replace") for name, value in fields.items()}
    return TailedEntry(address, stream, entry_id.decode(), parse_id(entry_id)[0], message, state, text)


def read_state(text: bytes | None) -> dict[str, Any]:
    """Return an entry's state; empty when there is none or it was written by hand."""
    try:
        state = json.loads(text or b"{}")
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}
