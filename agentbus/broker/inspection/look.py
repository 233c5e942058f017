"""One address as it is at one moment: everything countable, read in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.keys import GROUP, SOURCES, InboxKeys
from agentbus.broker.scripts import read_together
from agentbus.errors import BrokerRefused, WrongKeyType

#: An entry id as numbers, so that ids compare as the server compares them.
EntryId = tuple[int, int]

ZERO: EntryId = (0, 0)
#: After an entry with this id a stream takes no more.
LARGEST: EntryId = (2**64 - 1, 2**64 - 1)
#: Waiting entries that are read within the transaction. Few, because bodies may be a megabyte each.
PAGE = 32


@dataclass(frozen=True, slots=True)
class StreamLook:
    """One stream of an inbox."""

    #: ``returned`` or the lane's priority.
    name: str
    key: str
    length: int
    #: Entries ever added, by whomever.
    added: int
    last_id: EntryId
    #: Up to here entries were handed out.
    last_delivered: EntryId
    has_group: bool
    #: Waiting entries by the server's own count; None when it has lost count.
    lag: int | None
    #: Consumer to the number of entries it holds.
    holders: Mapping[str, int]
    #: The first waiting entries, at most `PAGE`.
    page: Sequence[EntryId]
    #: Whether `page` holds all that wait.
    page_is_all: bool

    @property
    def pending(self) -> int:
        """Entries in flight."""
        return sum(self.holders.values())

    @property
    def bricked(self) -> bool:
        """Whether the stream takes no more entries."""
        return self.last_id == LARGEST


@dataclass(frozen=True, slots=True)
class Look:
    """One address, all at one moment."""

    server_ms: int
    ledger: Mapping[str, int]
    #: Consumer to its beat: ``<counter> <loop lag in ms> <phase>``.
    beats: Mapping[str, str]
    due: int
    #: Server time in ms of the next due message.
    next_due_ms: int | None
    #: Bodies of delayed messages that `due` does not point at, at least.
    orphans: int
    dead: int
    streams: Sequence[StreamLook]

    def fingerprint(self) -> tuple[Any, ...]:
        """Return what changes whenever a message moves; equal before and after means nothing moved."""
        positions = tuple(
            (stream.last_id, stream.last_delivered, tuple(sorted(stream.holders.items())))
            for stream in self.streams
        )
        return (self.due, self.dead, tuple(sorted(self.ledger.items())), positions)


def parse_id(text: bytes | str) -> EntryId:
    """Return an entry id as numbers."""
    milliseconds, _, sequence = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(milliseconds), int(sequence or 0)


def format_id(entry_id: EntryId) -> str:
    """Return an entry id as the server writes it."""
    return f"{entry_id[0]}-{entry_id[1]}"


def fields_of(flat: Sequence[Any]) -> dict[str, Any]:
    """Return a flat list of names and values as a mapping."""
    return {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


async def take_look(broker: Broker, keys: InboxKeys) -> Look:
    """Read one address in one transaction; raises `WrongKeyType` naming each key of another type."""
    positions = await _positions(broker, keys)
    commands: list[tuple[Argument, ...]] = [
        ("TIME",),
        ("HGETALL", keys.ledger),
        ("HGETALL", keys.alive),
        ("ZCARD", keys.due),
        ("ZRANGE", keys.due, 0, 0, "WITHSCORES"),
        ("XLEN", keys.dead),
        ("HLEN", keys.delayed),
    ]
    fixed = len(commands)
    for stream, position in zip(keys.sources, positions, strict=True):
        commands += [
            ("XINFO", "STREAM", stream),
            ("XINFO", "GROUPS", stream),
            ("XPENDING", stream, GROUP),
            ("XRANGE", stream, _after(position), "+", "COUNT", PAGE),
        ]
    read = (keys.ledger, keys.alive, keys.due, keys.dead, keys.delayed, *keys.sources)
    replies = await read_together(broker, read, commands)
    await _refuse_wrong_types(broker, keys, replies)
    time, ledger, beats, due, next_due, dead, delayed = replies[:fixed]
    return Look(
        server_ms=int(time[0]) * 1000 + int(time[1]) // 1000,
        ledger=_counters(ledger),
        beats={name: beat.decode(errors="replace") for name, beat in fields_of(beats).items()},
        due=int(due),
        next_due_ms=int(float(next_due[1])) if next_due else None,
        # A body has two fields, itself and its state.
        orphans=max(0, (int(delayed) + 1) // 2 - int(due)),
        dead=int(dead),
        streams=tuple(
            _stream(SOURCES[index], keys.sources[index], replies[fixed + 4 * index : fixed + 4 * index + 4])
            for index in range(len(SOURCES))
        ),
    )


def _after(position: EntryId) -> str:
    # There is no id after the largest, and the server refuses to look for one: that entry itself is then
    # read again, and sorted out as handed out already.
    return format_id(position) if position == LARGEST else f"({format_id(position)}"


async def _positions(broker: Broker, keys: InboxKeys) -> list[EntryId]:
    """Return how far each stream was handed out just now: from there the transaction reads on."""
    replies = await broker.pipeline([("XINFO", "GROUPS", stream) for stream in keys.sources])
    return [_group(reply)[1] for reply in replies]


def _group(reply: Any) -> tuple[bool, EntryId, int | None]:
    """Return whether the group is there, its last delivered id, and its lag."""
    for group in () if isinstance(reply, Exception) else reply:
        fields = fields_of(group)
        if fields["name"] == GROUP.encode():
            lag = fields.get("lag")
            return True, parse_id(fields["last-delivered-id"]), None if lag is None else int(lag)
    return False, ZERO, None


def _stream(name: str, key: str, replies: Sequence[Any]) -> StreamLook:
    information, groups, pending, entries = replies
    facts: dict[str, Any] = {} if isinstance(information, Exception) else fields_of(information)
    has_group, last_delivered, lag = _group(groups)
    holders = {} if isinstance(pending, Exception) or not pending[3] else {
        consumer.decode(errors="replace"): int(count) for consumer, count in pending[3]
    }  # fmt: skip
    ids = [parse_id(entry[0]) for entry in entries]
    return StreamLook(
        name=name,
        key=key,
        length=int(facts.get("length", 0)),
        added=int(facts.get("entries-added", 0)),
        last_id=parse_id(facts["last-generated-id"]) if facts else ZERO,
        last_delivered=last_delivered,
        has_group=has_group,
        lag=lag if has_group else int(facts.get("length", 0)),
        holders=holders,
        page=[entry_id for entry_id in ids if entry_id > last_delivered],
        page_is_all=len(ids) < PAGE,
    )


def _counters(flat: Sequence[Any]) -> dict[str, int]:
    counters = {}
    for name, value in fields_of(flat).items():
        try:
            counters[name] = int(value)
        except ValueError:
            # Somebody wrote into the ledger by hand; the sum will show it.
            continue
    return counters


async def _refuse_wrong_types(broker: Broker, keys: InboxKeys, replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception) and str(reply).startswith("WRONGTYPE"):
            raise WrongKeyType("; ".join(await wrong_types(broker, keys)) or str(reply))
        if isinstance(reply, Exception) and "no such key" not in str(reply) and "NOGROUP" not in str(reply):
            raise BrokerRefused(str(reply))


async def wrong_types(broker: Broker, keys: InboxKeys) -> list[str]:
    """Return, for people, every key of an address that holds another type than it should."""
    expected = {
        keys.lanes: "zset", keys.due: "zset", keys.delayed: "hash", keys.dead: "stream",
        keys.alive: "hash", keys.started: "hash", keys.outcomes: "stream", keys.ledger: "hash",
        keys.ended: "stream", keys.cancelled: "hash",
        **dict.fromkeys(keys.sources, "stream"),
    }  # fmt: skip
    types = await broker.pipeline([("TYPE", key) for key in expected])
    return [
        f"{key} is a {found.decode()}, not a {wanted}"
        for (key, wanted), found in zip(expected.items(), types, strict=True)
        if isinstance(found, bytes) and found.decode() not in ("none", wanted)
    ]
