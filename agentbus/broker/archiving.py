"""What the archive needs of Redis: what has ended and is not archived yet, and how far it has come.

An inbox is read by its records of outcomes, which are written in the script that ends a message; a channel by
its log. The position in the stream moves by compare-and-set after the archive has committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentbus.broker import keys
from agentbus.broker.backlog import Backlog, backlog_call, backlog_of, backlogs
from agentbus.broker.connection import Argument, Broker
from agentbus.broker.keys import SOURCES, channel_keys, inbox_keys
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerError, BrokerRefused
from agentbus.message.topics import is_inbox

START = "0-0"
LARGEST = "18446744073709551615-18446744073709551615"
#: Outcomes after which nothing more happens to a message; every other record speaks of a move.
TERMINAL = frozenset(("processed", "expired", "cancelled", "discarded", "resolved", "moved"))
#: How a message of a channel "ends": it is history from the moment it is in the log.
LOGGED = "logged"
#: Addresses looked at in one round trip.
_LOOKS = 200
#: Entries asked for at once, before anything is known of their size.
_FIRST_CHUNK, _LARGEST_CHUNK = 16, 500
#: Bytes of bodies asked for at once, by the average of those before.
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EndRecord:
    """One record of outcomes that ends messages."""

    record_id: str
    outcome: str
    consumer: str
    #: (stream, entry id) of each message.
    entries: tuple[tuple[str, str], ...]
    #: How many of the entries ended by this record; fewer than listed when some had ended before.
    count: int

    @property
    def at_ms(self) -> int:
        """When they ended, in ms by the server's clock: the same at every look."""
        return time_of(self.record_id)

    @property
    def at(self) -> tuple[int, int]:
        """Its place in the order of history, as `Ended.ended_ms` and `Ended.ended_seq` have it."""
        return time_of(self.record_id), number_of(self.record_id)


@dataclass(frozen=True, slots=True)
class Ended:
    """One message that has ended, as Redis holds it."""

    address: str
    stream: str
    entry_id: str
    ended_ms: int
    outcome: str
    consumer: str
    #: The envelope as JSON text; empty for an entry that is no message.
    message: bytes
    #: As the scripts keep it (JSON); empty when there is none.
    state: bytes = b""
    #: What else the entry holds: reason and resolution of a dead letter, the fields of what is no message.
    details: tuple[tuple[bytes, bytes], ...] = ()
    #: With ``ended_ms`` its point in the order of history: the number of the record, and the place in it.
    ended_seq: int = 0
    ended_index: int = 0

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.message) + len(self.state) + sum(len(value) for _, value in self.details)


@dataclass(frozen=True, slots=True)
class Page:
    """Some records after a position, transitions passed over."""

    records: tuple[EndRecord, ...]
    #: The position after this page; unchanged when there is nothing.
    to: str
    #: Whether there was anything, transitions included, and whether there may be more.
    any: bool
    more: bool


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some entries of a channel's log after a position."""

    messages: tuple[Ended, ...]
    to: str
    more: bool


@dataclass(frozen=True, slots=True)
class Position:
    """How far the archive has taken an address."""

    to: str
    #: Whether retention knows a border; without one nothing goes.
    has_border: bool


def time_of(entry_id: str) -> int:
    """Return the time of an entry or record id, in ms."""
    return int(entry_id.partition("-")[0])


def number_of(entry_id: str) -> int:
    """Return the number of an entry or record id within its millisecond."""
    return int(entry_id.partition("-")[2] or 0)


class ArchiveSwitch:
    """Whether a deployment archives. Retention asks before it removes anything."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._key = keys.archive(prefix)

    async def turn_on(self) -> None:
        """From now on nothing that has ended leaves Redis before it is archived."""
        await run(self._broker, Call(load("archive_on"), (self._key,), ()))

    async def turn_off(self) -> None:
        """From now on history goes when retention says so, archived or not."""
        await self._broker.execute("DEL", self._key)

    async def since_ms(self) -> int | None:
        """Return since when it is on, in ms; None when it is off."""
        on, since = await self._broker.execute("HMGET", self._key, "on", "since")
        return int(since or 0) if on == b"1" else None


class _Archived:
    """How far the archive has come at one address."""

    def __init__(
        self, broker: Broker, address: str, field_name: str, script_keys: Sequence[str], policy: str
    ) -> None:
        self._broker = broker
        self.address = address
        self._field = field_name
        #: archived, ledger, the stream, …: as `archived.lua` wants them.
        self._keys = script_keys
        self._policy = policy

    async def position(self) -> Position:
        """Return how far everything is committed."""
        to, border = await self._broker.execute("HMGET", self._keys[0], self._field, "border")
        return Position(to.decode() if to else START, border is not None)

    async def advance(self, start: str, to: str, committed: int, missing: int = 0) -> bool:
        """Note that everything up to ``to`` is committed; False: somebody else was here first."""
        arguments: tuple[Argument, ...] = (self._field, start, to, committed, missing)
        reply = await run(self._broker, Call(load("archived"), self._keys, arguments))
        return bool(reply[0] == b"advanced")

    async def _rows_after(self, stream: str, position: str, most: int) -> Sequence[Any]:
        # There is no id after the largest, and the server refuses to look for one.
        if position == LARGEST:
            return ()
        rows: Sequence[Any] = await self._broker.execute("XRANGE", stream, f"({position}", "+", "COUNT", most)
        return rows

    def look(self) -> Call:
        """Return the look at what is not archived yet; see `backlogs`."""
        return backlog_call(self._keys[0], self._keys[1], self._keys[2], self._policy, self._field)

    async def backlog(self) -> Backlog:
        """Return how far the archive is behind."""
        return backlog_of(await run(self._broker, self.look()))


class ArchivedInbox(_Archived):
    """One inbox on its way into the archive."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        found = inbox_keys(prefix, address)
        super().__init__(
            broker, address, "outcomes",
            (found.archived, found.ledger, found.outcomes, *found.sources), found.policy,
        )  # fmt: skip
        self._outcomes = found.outcomes
        self._ledger = found.ledger
        self._streams = {
            **dict(zip(SOURCES, found.sources, strict=True)),
            "resolved": found.resolved,
            "ended": found.ended,
        }
        self._average = 0.0

    async def count_unarchived(self, counts: bool) -> bool:
        """Say whether ended messages count against the address' limit until they are archived.

        Returns whether that is new.
        """
        reply = await run(self._broker, Call(load("archiving"), (self._ledger,), (int(counts),)))
        return bool(reply == 1)

    async def records(self, after: str, most: int) -> Page:
        """Return what ended after a position, so many records at most; one may speak of a thousand."""
        rows = await self._rows_after(self._outcomes, after, most)
        if not rows:
            return Page((), after, any=False, more=False)
        records = [self._record(row[0].decode(), row[1]) for row in rows]
        return Page(
            tuple(record for record in records if record.outcome in TERMINAL and record.entries),
            records[-1].record_id,
            any=True,
            more=len(rows) == most,
        )

    def _record(self, record_id: str, flat: Sequence[bytes]) -> EndRecord:
        pairs = [
            (name.decode(errors="replace"), value.decode(errors="replace"))
            for name, value in zip(flat[::2], flat[1::2], strict=True)
        ]
        named = dict(pairs)
        # `due` named the message, not an entry, in records of older versions: the body is gone.
        entries = tuple(
            (name, entry) for name, value in pairs if name in self._streams or name == "due"
            for entry in value.split()
        )  # fmt: skip
        count = named.get("count", "")
        return EndRecord(
            record_id, named.get("outcome", ""), named.get("consumer", ""), entries,
            min(int(count), len(entries)) if count.isdigit() else len(entries),
        )  # fmt: skip

    async def bodies(self, records: Sequence[EndRecord]) -> AsyncIterator[list[Ended]]:
        """Yield the messages of some records that are still there, some megabytes at a time.

        Records are read together: where each ends a single message, a round trip for each would be most of
        the work.
        """
        left = deque(
            (record, index, stream, entry_id)
            for record in records
            for index, (stream, entry_id) in enumerate(record.entries)
            if stream in self._streams
        )
        while left:
            chunk = [left.popleft() for _ in range(min(self._chunk(), len(left)))]
            replies = await self._broker.pipeline(
                [("XRANGE", self._streams[stream], entry_id, entry_id) for _, _, stream, entry_id in chunk]
            )
            found = [
                _ended(record, self.address, stream, entry_id, index, fields)
                for (record, index, stream, entry_id), reply in zip(chunk, replies, strict=True)
                if (fields := _first(reply)) is not None
            ]
            self._learn(found)
            yield found

    def _chunk(self) -> int:
        if not self._average:
            return _FIRST_CHUNK
        return max(1, min(_LARGEST_CHUNK, int(_CHUNK_BYTES / self._average)))

    def _learn(self, found: Sequence[Ended]) -> None:
        if found:
            self._average = max(1.0, sum(each.size for each in found) / len(found))


class ArchivedChannel(_Archived):
    """One channel on its way into the archive."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        found = channel_keys(prefix, address)
        super().__init__(broker, address, "log", (found.archived, found.ledger, found.log), found.policy)
        self._log = found.log
        self._average = 0.0

    async def messages(self, after: str) -> LogPage:
        """Return the next messages of the log, some megabytes of them."""
        most = _FIRST_CHUNK
        if self._average:
            most = max(1, min(_LARGEST_CHUNK, int(_CHUNK_BYTES / self._average)))
        rows = await self._rows_after(self._log, after, most)
        if not rows:
            return LogPage((), after, more=False)
        messages = tuple(_logged(self.address, row[0].decode(), row[1]) for row in rows)
        self._average = max(1.0, sum(each.size for each in messages) / len(messages))
        return LogPage(messages, messages[-1].entry_id, more=len(rows) == most)


#: An address on its way into the archive.
ArchivedAddress = ArchivedInbox | ArchivedChannel


def archived_address(broker: Broker, prefix: str, address: str) -> ArchivedAddress:
    """Return an address on its way into the archive."""
    kind = ArchivedInbox if is_inbox(address) else ArchivedChannel
    return kind(broker, prefix, address)


async def backlogs_of(
    broker: Broker, prefix: str, addresses: Sequence[str]
) -> list[tuple[ArchivedAddress, Backlog | BrokerError]]:
    """Return how far the archive is behind at each address, or why that cannot be told."""
    sources = [archived_address(broker, prefix, address) for address in addresses]
    found: list[tuple[ArchivedAddress, Backlog | BrokerError]] = []
    for begin in range(0, len(sources), _LOOKS):
        some = sources[begin : begin + _LOOKS]
        found += zip(some, await backlogs(broker, [source.look() for source in some]), strict=True)
    return found


def _first(reply: Any) -> Sequence[bytes] | None:
    """Return the fields of the one entry that was asked for; None when it is not there any more."""
    if isinstance(reply, Exception):
        # A record that somebody wrote by hand; whatever else the server says is no reason to skip a message.
        if isinstance(reply, BrokerRefused) and "Invalid stream ID" in str(reply):
            return None
        raise reply
    return reply[0][1] if reply else None


@dataclass(slots=True)
class _Fields:
    message: bytes = b""
    state: bytes = b""
    others: list[tuple[bytes, bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, flat: Sequence[bytes]) -> _Fields:
        fields = cls()
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            if name == b"message":
                fields.message = value
            elif name == b"state":
                fields.state = value
            elif name != b"outcome":
                fields.others.append((name, value))
        return fields


def _ended(
    record: EndRecord, address: str, stream: str, entry_id: str, index: int, flat: Sequence[bytes]
) -> Ended:
    fields = _Fields.of(flat)
    return Ended(
        address, stream, entry_id, record.at_ms, record.outcome, record.consumer, fields.message,
        fields.state, tuple(fields.others), number_of(record.record_id), index,
    )  # fmt: skip


def _logged(address: str, entry_id: str, flat: Sequence[bytes]) -> Ended:
    fields = _Fields.of(flat)
    return Ended(
        address, "log", entry_id, time_of(entry_id), LOGGED, "", fields.message, fields.state,
        tuple(fields.others), number_of(entry_id),
    )  # fmt: skip
