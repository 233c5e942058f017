"""Work that nobody saw: what the broker believes this process holds, compared with what it does hold.

A lost reply, or a read on a connection that was already dead, leaves entries pending for a living consumer;
nobody may reclaim those. An id that is unknown here on two looks is taken in as a delivery. The reverse, a
delivery that runs here and is no longer pending, is the work of somebody's hand (XGROUP DELCONSUMER,
XACK): it is put back on the list.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from agentbus.broker.answers import RawEntry
from agentbus.errors import BrokerError, StaleDelivery
from agentbus.events import Events
from agentbus.receive.delivery import Source
from agentbus.receive.place import Place

AUDIT_INTERVAL = 3.0
#: Between two looks it is asked so often whether the connection was lost.
_STEPS = 5
#: Pending entries of one stream that a look compares.
MOST_LOOKED_AT = 1_000

#: (index of the stream, entry id)
Spot = tuple[int, bytes]

Accept = Callable[[Place, Sequence[RawEntry]], None]


class Audit:
    """Audits one consumer."""

    def __init__(
        self,
        consumer: str,
        sources: Sequence[Source],
        accept: Accept,
        reconnects: Callable[[], int],
        events: Events,
    ) -> None:
        self._consumer = consumer
        self._by_inbox: dict[Place, dict[int, Source]] = {}
        for source in sources:
            self._by_inbox.setdefault(source.inbox, {})[source.index] = source
        self._accept = accept
        self._reconnects = reconnects
        self._events = events
        self._unknown: dict[Place, set[Spot]] = {}
        self._taken: dict[Place, set[Spot]] = {}

    async def run(self) -> None:
        """Look every few seconds, and soon after each reconnect."""
        seen = self._reconnects()
        while True:
            for _ in range(_STEPS):
                await asyncio.sleep(AUDIT_INTERVAL / _STEPS * random.uniform(0.8, 1.2))
                if self._reconnects() != seen:
                    break
            seen = self._reconnects()
            try:
                await self.look()
            except (BrokerError, StaleDelivery):
                continue

    async def look(self) -> None:
        """Compare once."""
        for inbox, sources in self._by_inbox.items():
            # Noted before the question: what is handed out in between is not yet in the answer.
            unsettled = _unsettled(sources)
            pending = set(await inbox.held_ids(self._consumer, MOST_LOOKED_AT))
            unknown = {
                (index, entry_id) for index, entry_id in pending if entry_id not in sources[index].held
            }
            missing = unknown & self._unknown.get(inbox, set())
            self._unknown[inbox] = unknown - missing
            for index, entry_id in sorted(missing, key=_in_stream):
                await self._take_in(inbox, sources[index], entry_id)
            # A list that was cut off says nothing about what is not on it.
            taken = unsettled - pending if len(pending) < MOST_LOOKED_AT else set()
            for index, entry_id in sorted(taken & self._taken.get(inbox, set()) & _unsettled(sources)):
                await self._put_back(inbox, index, entry_id)
            self._taken[inbox] = taken

    async def _take_in(self, inbox: Place, source: Source, entry_id: bytes) -> None:
        entry = await inbox.read_entry(source.index, entry_id)
        if entry_id in source.held:
            return
        if entry is None:
            self._events.emit("vanished", inbox.address, f"entry {entry_id.decode()} was deleted while held")
            await inbox.forget(source.index, entry_id)
            return
        # A parked read whose reply was lost may have taken what was cancelled.
        left = await inbox.weed(self._consumer, (entry,))
        if left and entry_id not in source.held:
            self._accept(inbox, left)

    async def _put_back(self, inbox: Place, index: int, entry_id: bytes) -> None:
        if await inbox.restore(self._consumer, index, entry_id):
            self._events.emit(
                "restored",
                inbox.address,
                f"entry {entry_id.decode()} was taken off this consumer's list by somebody's hand; put back",
            )


def _in_stream(spot: Spot) -> tuple[int, int, int]:
    """Entry ids are numbers: as text the tenth of a millisecond would come before the ninth."""
    time, _, number = spot[1].partition(b"-")
    return spot[0], int(time), int(number)


def _unsettled(sources: dict[int, Source]) -> set[Spot]:
    """Return what this process holds and has not decided about."""
    return {
        (index, entry_id)
        for index, source in sources.items()
        for entry_id, delivery in source.held.items()
        if delivery.outcome is None and not delivery.revoked
    }
