"""Receipts against the inboxes: a mark that was lost with its process is found out and made good.

Marks are written after what they tell of. Whoever is killed in between leaves a row open; the inbox of that
recipient knows better.
"""

from __future__ import annotations

import asyncio

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.found import Place
from agentbus.broker.inspection.holding import Held, look_up
from agentbus.broker.inspection.tracing import Trace, trace_message
from agentbus.broker.receipts import ReceiptStore, Rows, field_of

#: Seconds that a mark on its way gets before an inbox is searched for what it would say.
_GRACE = 0.15
_UNSEEN = ("expired", "cancelled")
_WITHOUT_SUCCESS = ("expired", "discarded", "cancelled")


class Reconciler:
    """Closes rows whose marks were lost."""

    def __init__(self, broker: Broker, prefix: str, store: ReceiptStore) -> None:
        self._broker = broker
        self._prefix = prefix
        self._store = store

    async def reconcile(self, rows: Rows) -> Rows:
        """Return the rows as they really are, and store what was missing."""
        doubtful = await self._doubtful(rows)
        if not doubtful:
            return rows
        # Nearly always the marks are on their way, and searching an inbox reads all that it holds.
        await asyncio.sleep(_GRACE)
        rows = await self._store.read(rows.message_id) or rows
        found: dict[str, int | str | None] = {}
        for row in rows.rows:
            if row.agent in doubtful and row.open:
                searched = await trace_message(
                    self._broker, self._prefix, rows.message_id, [f"agent.{row.agent}"]
                )
                found |= _marks_of(row.agent, searched)
        if not found:
            return rows
        await self._store.mark({rows.message_id: found})
        return await self._store.read(rows.message_id) or rows

    async def _doubtful(self, rows: Rows) -> set[str]:
        """Return whose rows are open although nothing waits or is held; notes what is held."""
        open_rows = [row for row in rows.rows if row.open]
        placed = [(row, row.entry) for row in open_rows if row.entry is not None]
        held = await look_up(
            self._broker, self._prefix, [(f"agent.{row.agent}", entry) for row, entry in placed]
        )
        delivered = {
            field_of(row.agent, "delivered"): where.since_ms
            for (row, _), where in zip(placed, held, strict=True)
            if where.state == "held" and row.delivered is None
        }
        if delivered:
            await self._store.mark({rows.message_id: delivered})
        unplaced = {row.agent for row in open_rows if row.entry is None and row.unstored is None}
        return unplaced | {row.agent for (row, _), where in zip(placed, held, strict=True) if _gone(where)}


def _gone(where: Held) -> bool:
    return where.state == "elsewhere"


def _marks_of(agent: str, trace: Trace) -> dict[str, int | str | None]:
    """Return the marks that what is left of a message in an inbox proves."""
    marks: dict[str, int | str | None] = {}
    for place in trace.places:
        marks |= _marks_at(agent, place)
    # What expires while it waits was in nobody's hands.
    steps = [step.at_ms for step in trace.steps if step.outcome not in _UNSEEN]
    if steps:
        marks.setdefault(field_of(agent, "delivered"), min(steps))
    return marks


def _marks_at(agent: str, place: Place) -> dict[str, int | str | None]:
    if place.status == "ended" and place.outcome == "processed":
        return {field_of(agent, "processed"): place.at_ms}
    if place.status == "dead":
        return {field_of(agent, "ended"): f"dead: {place.outcome}: {place.detail}"}
    if place.status == "ended" and place.outcome in _WITHOUT_SUCCESS:
        return {field_of(agent, "ended"): place.outcome}
    if place.status == "in_flight":
        return {field_of(agent, what): place.at_ms for what in ("stored", "delivered")}
    if place.status in ("waiting", "returned", "due"):
        return {field_of(agent, "stored"): _stored_at(place)}
    return {}


def _stored_at(place: Place) -> int | None:
    """When a message that nobody has ended came; of one that comes due later only that it is there."""
    return None if place.status == "due" else place.at_ms
