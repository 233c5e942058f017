"""Deliveries between the reader and the runners, and how many more may come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from agentbus.receive.delivery import Delivery

#: Weight of the newest handler in the average of handler times.
_NEWEST = 0.05


class SuspectGate:
    """One suspect at a time per process: a message that has crashed an owner runs alone among its like."""

    def __init__(self) -> None:
        self.running = False


class Workload:
    """What waits for a runner in this process.

    Work is taken only for free runners. While handlers are fast, ``prefetch`` more may wait here, since a
    round trip would cost more than the handler; behind a slow handler nothing waits, because nobody else
    could take it.
    """

    def __init__(self, runners: int, prefetch: int, prefetch_below: float, gate: SuspectGate) -> None:
        self._runners = runners
        self._prefetch = prefetch
        self._prefetch_below = prefetch_below
        self._gate = gate
        self._ready: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        # Unknown handlers count as slow until they have shown otherwise.
        self._average_seconds = max(1.0, prefetch_below)
        self._finished_once = False
        self._closed = False
        self.running = 0

    @property
    def waiting(self) -> int:
        """Deliveries that no runner has begun."""
        return len(self._ready) + len(self._suspects)

    @property
    def wanted(self) -> int:
        """How many more messages to take now; 0 = none."""
        fast = self._average_seconds < self._prefetch_below
        window = self._runners + (self._prefetch if fast else 0)
        room = window - self.waiting - self.running
        # Small refills would cost a round trip each while fast handlers drain a large window.
        return room if room > 0 and (not fast or room * 2 >= window or room >= 64) else 0

    async def wait_room(self) -> None:
        """Wait until more may be taken."""
        while self.wanted == 0 and not self._closed:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Nothing more is to be taken: `wait_room` returns, however busy the runners are."""
        self._closed = True
        self._room.set()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Take deliveries in; idle runners begin at once."""
        for delivery in deliveries:
            (self._suspects if delivery.suspect else self._ready).append(delivery)
        self._wake_runners()

    def take(self) -> Delivery | None:
        """Give the next delivery to a runner, or None."""
        if self._suspects and not self._gate.running:
            self._gate.running = True
            self.running += 1
            return self._suspects.popleft()
        if not self._ready:
            return None
        self.running += 1
        return self._ready.popleft()

    async def wait_work(self) -> None:
        """Wait until there may be something to take."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        await waiter

    def finished(self, delivery: Delivery, seconds: float) -> None:
        """A runner is done with a delivery that took it ``seconds``."""
        self.running -= 1
        if self._finished_once:
            self._average_seconds += (seconds - self._average_seconds) * _NEWEST
        else:
            self._finished_once = True
            self._average_seconds = seconds
        if delivery.suspect:
            self._gate.running = False
            self._wake_runners()
        if not self._room.is_set() and self.wanted:
            self._room.set()

    def take_unstarted(self, arrived_before: float) -> list[Delivery]:
        """Remove and return what has waited since before a loop time: it goes back to the others."""
        late = [delivery for delivery in self._ready if delivery.arrived < arrived_before]
        late += [delivery for delivery in self._suspects if delivery.arrived < arrived_before]
        if late:
            self._ready = deque(item for item in self._ready if item.arrived >= arrived_before)
            self._suspects = deque(item for item in self._suspects if item.arrived >= arrived_before)
        return late

    def take_excess(self) -> list[Delivery]:
        """Remove and return what came beyond the free runners while nothing may wait here."""
        if self._average_seconds < self._prefetch_below:
            return []
        free = max(0, self._runners - self.running)
        excess: list[Delivery] = []
        while len(self._ready) > free:
            excess.append(self._ready.pop())
        return excess

    def _wake_runners(self) -> None:
        able = len(self._ready) + (1 if self._suspects and not self._gate.running else 0)
        while self._idle and able > 0:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                able -= 1
