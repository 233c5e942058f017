"""Whether entries of inboxes still wait or are held, many in one round trip; takes and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inspection.look import parse_id
from agentbus.broker.keys import GROUP, SOURCES, inbox_keys

#: Entries asked for in one round trip.
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Held:
    """Where one entry is."""

    #: ``elsewhere``: it ended, moved, or is gone.
    state: Literal["waiting", "held", "elsewhere"]
    #: Server time in ms since when somebody holds it.
    since_ms: int | None = None


async def look_up(broker: Broker, prefix: str, entries: Sequence[tuple[str, str]]) -> list[Held]:
    """Return where entries are, each given as its address and ``<lane> <entry id>``."""
    found: list[Held] = []
    for begin in range(0, len(entries), _PAGE):
        found += await _look_up(broker, prefix, entries[begin : begin + _PAGE])
    return found


async def _look_up(broker: Broker, prefix: str, entries: Sequence[tuple[str, str]]) -> list[Held]:
    commands: list[tuple[Argument, ...]] = [("TIME",)]
    for address, place in entries:
        lane, _, entry_id = place.partition(" ")
        if lane not in SOURCES:
            lane, entry_id = "normal", "0-0"
        stream = inbox_keys(prefix, address).sources[SOURCES.index(lane)]
        commands += [("XPENDING", stream, GROUP, entry_id, entry_id, 1), ("XINFO", "GROUPS", stream)]
    time, *replies = await broker.pipeline(commands)
    if isinstance(time, Exception):
        raise time
    now = int(time[0]) * 1000 + int(time[1]) // 1000
    pairs = zip(entries, replies[::2], replies[1::2], strict=True)
    return [_held(place.partition(" ")[2], pending, groups, now) for (_, place), pending, groups in pairs]


def _held(entry_id: str, pending: Any, groups: Any, now: int) -> Held:
    # No stream, or no group: nobody has ever served the address, or it was deleted.
    if isinstance(groups, Exception):
        return Held("elsewhere")
    if not isinstance(pending, Exception) and pending:
        return Held("held", now - int(pending[0][2]))
    read = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
    upto = [group[b"last-delivered-id"] for group in read if group.get(b"name") == GROUP.encode()]
    waits = not upto or parse_id(entry_id) > parse_id(upto[0])
    return Held("waiting" if waits else "elsewhere")
