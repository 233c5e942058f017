"""What has not ended in an inbox: due, waiting, in flight and dead, a few at a time.

These messages move while somebody reads, so each stage is read as it is at that moment; within a stage the
order is that of entry ids, which no move of another message changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inspection.kept import Kept, Window
from agentbus.broker.inspection.look import (
    LARGEST,
    ZERO,
    EntryId,
    fields_of,
    format_id,
    parse_id,
)
from agentbus.broker.inspection.tailing import read_state
from agentbus.broker.keys import GROUP, SOURCES, InboxKeys
from agentbus.errors import BrokerRefused

#: Stages in the order in which newest first shows them: what is to come, what waits, what runs, what failed.
STAGES = ("due", "waiting", "in_flight", "dead")
#: Entries of one stream that are looked through for what is in flight.
_MOST_HELD = 10_000
_MOST = 64


@dataclass(frozen=True, slots=True)
class _Held:
    """An entry that somebody holds."""

    entry_id: EntryId
    source: int
    consumer: str
    idle_ms: int


class Unended:
    """Reads the stages of one inbox; takes and writes nothing."""

    def __init__(self, broker: Broker, keys: InboxKeys) -> None:
        self._broker = broker
        self._keys = keys

    async def read(self, stage: str, window: Window, most: int) -> list[Kept]:
        """Return up to ``most`` messages of a stage; fewer than asked for does not mean that it ends.

        An empty list does. `Kept.point` of the last one is where the next read goes on.
        """
        most = min(most, _MOST)
        if stage == "due":
            return await self._due(window, most)
        if stage == "waiting":
            return await self._waiting(window, most)
        if stage == "in_flight":
            return await self._in_flight(window, most)
        return await self._dead(window, most)

    # --- waiting ---

    async def _waiting(self, window: Window, most: int) -> list[Kept]:
        groups = await self._broker.pipeline([("XINFO", "GROUPS", key) for key in self._keys.sources])
        asked: list[int] = []
        commands: list[tuple[Argument, ...]] = []
        for source, reply in enumerate(groups):
            last = _last_delivered(reply)
            if last != LARGEST:
                asked.append(source)
                low, high = _bounds(window, f"({format_id(last)}", last)
                commands.append(_range(self._keys.sources[source], low, high, window.newest_first, most + 1))
        found = [
            (parse_id(row[0]), source, row)
            for source, rows in zip(asked, _replies(await self._broker.pipeline(commands)), strict=True)
            for row in rows
            if window.holds((*parse_id(row[0]), source))
        ]
        found.sort(key=lambda one: one[:2], reverse=window.newest_first)
        kept = [_entry("waiting", source, row, entry_id[0], "") for entry_id, source, row in found[:most]]
        return await self._say_cancelled(kept)

    async def _say_cancelled(self, kept: list[Kept]) -> list[Kept]:
        """Name who cancelled what waits and ends when its turn comes."""
        names = [f"{one.point[2]} {one.entry_id}" for one in kept]
        marks = await self._broker.execute("HMGET", self._keys.cancelled, *names) if names else ()
        return [
            one if by is None else replace(one, detail=f"cancelled by {by.decode(errors='replace')}")
            for one, by in zip(kept, marks, strict=True)
        ]

    # --- in flight ---

    async def _in_flight(self, window: Window, most: int) -> list[Kept]:
        low, high = _bounds(window, "-", ZERO)
        pending = await self._broker.pipeline(
            [("XPENDING", key, GROUP, low, high, _MOST_HELD) for key in self._keys.sources]
        )
        held = [
            _Held(parse_id(item[0]), source, item[1].decode(errors="replace"), int(item[2]))
            for source, reply in enumerate(_replies(pending))
            for item in reply
            if window.holds((*parse_id(item[0]), source))
        ]
        held.sort(key=lambda one: (one.entry_id, one.source), reverse=window.newest_first)
        return await self._bodies_of(held[:most])

    async def _bodies_of(self, held: Sequence[_Held]) -> list[Kept]:
        if not held:
            return []
        commands: list[tuple[Argument, ...]] = [("TIME",)]
        for one in held:
            text = format_id(one.entry_id)
            commands.append(("XRANGE", self._keys.sources[one.source], text, text))
        time, *rows = _replies(await self._broker.pipeline(commands))
        now = int(time[0]) * 1000 + int(time[1]) // 1000
        # An entry that somebody deleted while it was held still has its place.
        gone: tuple[None, list[Any]] = (None, [])
        return [
            _entry(
                "in_flight", one.source, (row or [gone])[0], now - one.idle_ms, one.consumer, one.entry_id
            )
            for one, row in zip(held, rows, strict=True)
        ]  # fmt: skip

    # --- dead ---

    async def _dead(self, window: Window, most: int) -> list[Kept]:
        low, high = _bounds(window, "-", ZERO)
        rows = await self._broker.execute(*_range(self._keys.dead, low, high, window.newest_first, most + 1))
        letters = [_letter(row) for row in rows]
        return [letter for letter in letters if window.holds(letter.point)][:most]

    # --- due ---

    async def _due(self, window: Window, most: int) -> list[Kept]:
        """Return due messages; those of one millisecond are ordered by name, and counted within it."""
        newest = window.newest_first
        edge = window.below if newest else window.above
        begin: Argument = ("+inf" if newest else "-inf") if edge is None else edge[0]
        end = "-inf" if newest else "+inf"
        # What was given of the first millisecond is read again: names may have gone from it meanwhile.
        given = 0 if edge is None else edge[2] + 1
        command: list[Argument] = ["ZRANGE", self._keys.due, begin, end, "BYSCORE"]
        command += [*(["REV"] if newest else []), "LIMIT", given, most, "WITHSCORES"]
        flat = await self._broker.execute(*command)
        names = flat[::2]
        scores = [int(float(score)) for score in flat[1::2]]
        if not names:
            return []
        fields = [part for name in names for part in (name, name + b":state")]
        values = await self._broker.execute("HMGET", self._keys.delayed, *fields)
        kept, place, last = [], given, None if edge is None else edge[0]
        for index, (name, score) in enumerate(zip(names, scores, strict=True)):
            place = place if score == last else 0
            kept.append(_delayed(name, score, place, values[2 * index], values[2 * index + 1]))
            place, last = place + 1, score
        return kept


def _last_delivered(reply: Any) -> EntryId:
    for group in () if isinstance(reply, Exception) else reply:
        fields = fields_of(group)
        if fields["name"] == GROUP.encode():
            return parse_id(fields["last-delivered-id"])
    return ZERO


def _bounds(window: Window, lowest: str, floor: EntryId) -> tuple[str, str]:
    """Return where to read; both ends belong to it, because other streams share their ids."""
    low, high = lowest, "+"
    if window.above is not None and window.above[:2] > floor:
        low = format_id(window.above[:2])
    if window.below is not None:
        high = format_id(window.below[:2])
    return low, high


def _range(key: str, low: str, high: str, newest_first: bool, most: int) -> tuple[Argument, ...]:
    if newest_first:
        return ("XREVRANGE", key, high, low, "COUNT", most)
    return ("XRANGE", key, low, high, "COUNT", most)


def _replies(replies: Sequence[Any]) -> list[Any]:
    """Return replies; a stream or a group that is not there holds nothing."""
    found: list[Any] = []
    for reply in replies:
        if isinstance(reply, Exception):
            missing = "NOGROUP" in str(reply) or "no such key" in str(reply)
            if not (isinstance(reply, BrokerRefused) and missing):
                raise reply
            found.append([])
        else:
            found.append(reply)
    return found


def _entry(
    status: str, source: int, row: Sequence[Any], at_ms: int, consumer: str, entry_id: EntryId | None = None
) -> Kept:
    where = entry_id if entry_id is not None else parse_id(row[0])
    fields = fields_of(row[1] or ())
    return Kept(
        point=(*where, source),
        status=status,
        stream=SOURCES[source],
        entry_id=format_id(where),
        at_ms=at_ms,
        text=fields.get("message", b"") if row[0] is not None else None,
        consumer=consumer,
        state=read_state(fields.get("state")),
    )


def _letter(row: Sequence[Any]) -> Kept:
    at, fields = parse_id(row[0]), fields_of(row[1] or ())
    attempts = fields.get("attempts", b"")
    text = {name: fields.get(name, b"").decode(errors="replace") for name in ("reason", "detail", "owner")}
    return Kept(
        point=(*at, 0),
        status="dead",
        stream="dead",
        entry_id=format_id(at),
        at_ms=at[0],
        text=fields.get("message", b""),
        consumer=text["owner"],
        detail=": ".join(part for part in (text["reason"], text["detail"]) if part),
        state=read_state(fields.get("state")),
        attempts=int(attempts) if attempts.isdigit() else None,
    )


def _delayed(name: bytes, score: int, place: int, text: bytes | None, state: bytes | None) -> Kept:
    kept = read_state(state)
    return Kept(
        point=(score, 0, place),
        status="due",
        stream="due",
        entry_id=name.decode(errors="replace"),
        at_ms=score,
        text=text,
        detail="to be tried again" if kept.get("attempt") else "",
        state=kept,
    )
