"""How messages of an inbox ended, in the order in which they did: the records of outcomes, with the bodies.

The record is the one thing about a message that never changes again, and the archive walks the same records:
a point in their order means the same in Redis and in the archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inspection.inbox_view import ENDINGS
from agentbus.broker.inspection.kept import LAST_OF_RECORD, Kept, Point, Stretch, Window
from agentbus.broker.inspection.look import EntryId, fields_of, format_id, parse_id
from agentbus.broker.inspection.tailing import read_state
from agentbus.broker.keys import SOURCES, InboxKeys
from agentbus.broker.scripts import read_together

_RECORDS = 100
#: Bodies in one round trip while their size is unknown, and at most.
_FIRST_BODIES, _MOST_BODIES = 8, 256
_BYTES = 1024 * 1024
#: Fields of a record that list entries. The archive counts places in a record as this module does.
_STREAMS = frozenset(name.encode() for name in (*SOURCES, "resolved", "ended", "due"))
#: Records before one that lists too much, which are searched for what had ended already.
_MOST_BEFORE = 2_000


@dataclass(frozen=True, slots=True)
class End:
    """One line of a record: this entry ended so."""

    point: Point
    outcome: str
    consumer: str
    stream: str
    entry_id: str


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of outcomes."""

    at: EntryId
    ends: Sequence[End]
    #: How many of them really ended by it; fewer than listed when some had ended before.
    count: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What the books say of an address, all at one moment."""

    #: Messages that ended since the address is in use.
    ended: int
    #: The newest record; (0, 0) when there never was one.
    newest: EntryId
    #: The oldest record that is left; None when there is none.
    oldest: EntryId | None


class Ends:
    """Reads the ends of one inbox; takes and writes nothing."""

    def __init__(self, broker: Broker, keys: InboxKeys) -> None:
        self._broker = broker
        self._keys = keys
        self._streams = dict(zip(SOURCES, keys.sources, strict=True)) | {
            "resolved": keys.resolved,
            "ended": keys.ended,
        }

    async def tally(self) -> Tally:
        """Return what the books say; the ledger and the records are written by the same scripts."""
        outcomes = self._keys.outcomes
        commands: list[tuple[Argument, ...]] = [
            ("HMGET", self._keys.ledger, *ENDINGS),
            ("XREVRANGE", outcomes, "+", "-", "COUNT", 1),
            ("XRANGE", outcomes, "-", "+", "COUNT", 1),
        ]
        ledger, newest, oldest = _answers(
            await read_together(self._broker, (self._keys.ledger, outcomes), commands)
        )
        return Tally(
            ended=sum(int(value) for value in ledger if value is not None and value.lstrip(b"-").isdigit()),
            newest=parse_id(newest[0][0]) if newest else (0, 0),
            oldest=parse_id(oldest[0][0]) if oldest else None,
        )

    async def read(self, window: Window, most: int) -> Stretch:
        """Return up to ``most`` ends of a window with their bodies; one step, at most a hundred records."""
        ends, resume = await self._step(window, most)
        return Stretch(await self._with_bodies(ends), resume)

    async def count(self, window: Window, most_records: int) -> int | None:
        """Count the ends in a window; None when it holds more than ``most_records`` records."""
        counted = 0
        for _ in range(0, most_records, _RECORDS):
            records, resume = await self._records(window)
            counted += sum(record.count for record in records if window.holds((*record.at, 0)))
            if resume is None:
                return counted
            window = window.after(resume)
        return None

    async def named(self, window: Window, most_records: int) -> set[tuple[str, str]]:
        """Return stream and entry id of what ended in a window; of its first ``most_records`` records."""
        found: set[tuple[str, str]] = set()
        for _ in range(0, most_records, _RECORDS):
            records, resume = await self._records(window)
            ends = (end for record in records for end in record.ends if window.holds(end.point))
            found.update((end.stream, end.entry_id) for end in ends)
            if resume is None:
                break
            window = window.after(resume)
        return found

    # --- records ---

    async def _step(self, window: Window, most: int) -> tuple[list[End], Point | None]:
        records, resume = await self._records(window)
        ends: list[End] = []
        for record in records:
            for end in await self._really_ended(record, window.newest_first):
                if not window.holds(end.point):
                    continue
                if len(ends) == most:
                    return ends, ends[-1].point
                ends.append(end)
        return ends, resume

    async def _records(self, window: Window) -> tuple[list[_Record], Point | None]:
        rows = await self._broker.execute(*self._command(window))
        records = [_record_of(row) for row in rows]
        if len(rows) < _RECORDS:
            return records, None
        return records, (*records[-1].at, -1 if window.newest_first else LAST_OF_RECORD)

    async def _really_ended(self, record: _Record, newest_first: bool) -> Sequence[End]:
        """Return what ended by a record. One of a repeated settlement may also list what had ended before."""
        ends = record.ends
        if record.count < len(ends):
            before = await self.named(Window(None, (*record.at, 0), True), _MOST_BEFORE)
            ends = [end for end in ends if (end.stream, end.entry_id) not in before]
        return ends[::-1] if newest_first else ends

    def _command(self, window: Window) -> tuple[Argument, ...]:
        # A point may lie within a record: its record is read again, and `holds` sorts out what was given.
        low = "-" if window.above is None else format_id(window.above[:2])
        high = "+" if window.below is None else format_id(window.below[:2])
        if window.newest_first:
            return ("XREVRANGE", self._keys.outcomes, high, low, "COUNT", _RECORDS)
        return ("XRANGE", self._keys.outcomes, low, high, "COUNT", _RECORDS)

    # --- bodies ---

    async def _with_bodies(self, ends: Sequence[End]) -> list[Kept]:
        kept: list[Kept] = []
        size = _FIRST_BODIES
        while len(kept) < len(ends):
            chunk = ends[len(kept) : len(kept) + size]
            fields = await self._bodies(chunk)
            kept += [_kept(end, found) for end, found in zip(chunk, fields, strict=True)]
            read = sum(len(value) for found in fields if found for value in found.values())
            size = max(1, min(_MOST_BODIES, _BYTES * len(chunk) // (read + 1)))
        return kept

    async def _bodies(self, ends: Sequence[End]) -> list[dict[str, Any] | None]:
        # An end in a stream that is not kept (expired while due, before that was kept) has no body.
        asked = [end for end in ends if end.stream in self._streams]
        commands: list[tuple[Argument, ...]] = [
            ("XRANGE", self._streams[end.stream], end.entry_id, end.entry_id) for end in asked
        ]
        replies = _answers(await self._broker.pipeline(commands)) if commands else []
        found = {
            end.point: fields_of(reply[0][1]) for end, reply in zip(asked, replies, strict=True) if reply
        }
        return [found.get(end.point) for end in ends]


def _answers(replies: Any) -> Sequence[Any]:
    if isinstance(replies, Exception):
        raise replies
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    answers: Sequence[Any] = replies
    return answers


def _record_of(row: Sequence[Any]) -> _Record:
    """Return what a record tells of messages that ended; no ends when it tells of a move."""
    entry_id, flat = row
    at, facts = parse_id(entry_id), fields_of(flat)
    outcome = facts.get("outcome", b"").decode(errors="replace")
    if outcome not in ENDINGS:
        return _Record(at, (), 0)
    consumer = facts.get("consumer", b"").decode(errors="replace")
    entries = (
        (name.decode(errors="replace"), held_id)
        for name, value in zip(flat[::2], flat[1::2], strict=True)
        if name in _STREAMS
        for held_id in value.decode(errors="replace").split()
    )
    ends = tuple(
        End((*at, index), outcome, consumer, stream, held_id)
        for index, (stream, held_id) in enumerate(entries)
    )
    count = facts.get("count", b"")
    return _Record(at, ends, min(len(ends), int(count)) if count.isdigit() else len(ends))


def _kept(end: End, fields: dict[str, Any] | None) -> Kept:
    found = fields or {}
    attempts = found.get("attempts", b"")
    return Kept(
        point=end.point,
        status="ended",
        stream=end.stream,
        entry_id=end.entry_id,
        at_ms=end.point[0],
        text=None if fields is None else found.get("message", b""),
        outcome=end.outcome,
        consumer=end.consumer,
        detail=found.get("resolution", b"").decode(errors="replace"),
        state=read_state(found.get("state")),
        attempts=int(attempts) if attempts.isdigit() else None,
    )
