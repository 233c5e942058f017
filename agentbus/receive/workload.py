"""Deliveries between the reader and the runners, and how many more may come."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable

from agentbus.receive.delivery import Delivery
from agentbus.receive.suspects import SuspectGate

#: Weight of the newest handler in the average of handler times.
_NEWEST = 0.05
#: Idle runners that one event wakes.
_WOKEN_AT_ONCE = 2


class Workload:
    """What waits for a runner in this process.

    Work is taken only for free runners. While handlers are fast, ``prefetch`` more may wait here, since a
    round trip would cost more than the handler; behind a slow handler nothing waits, because nobody else
    could take it. With no runners at all (deliveries are pulled) what callers wait for is taken.

    In order nobody else could take it anyway: as many may wait as are handled while the next are on their
    way, or on a busy machine, where that takes seconds, each message would.
    """

    def __init__(
        self,
        runners: int,
        prefetch: int,
        prefetch_below: float,
        gate: SuspectGate,
        in_order: bool = False,
    ) -> None:
        self._runners = runners
        #: What waits is begun in the order in which it came, suspects too: they came first.
        self._in_order = in_order
        self._prefetch = prefetch
        self._prefetch_below = prefetch_below
        self._gate = gate
        self._ready: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._room = asyncio.Event()
        self._room.set()
        #: The reader waits for room.
        self._room_wanted = False
        self._interrupted = False
        self._closed = False
        # Unknown handlers count as slow until they have shown otherwise.
        self._average_seconds = max(1.0, prefetch_below)
        self._finished_once = False
        self._last_finish = 0.0
        #: What the last handler took, in order; infinite before the first.
        self._last_took = math.inf
        #: Seconds that the last messages were on their way, from being asked for.
        self.on_their_way = 0.0
        self.running = 0

    @property
    def waiting(self) -> int:
        """Deliveries that no runner has begun."""
        return len(self._ready) + len(self._suspects)

    @property
    def wanted(self) -> int:
        """How many more messages to take now; 0 = none."""
        if self._runners == 0:
            return max(0, sum(not waiter.done() for waiter in self._idle) - self.waiting)
        fast = self._fast
        window = self._runners + (self._prefetch if fast else self._bridge)
        room = window - self.waiting - self.running
        # Small refills would cost a round trip each while fast handlers drain a large window.
        return room if room > 0 and (not fast or room * 2 >= window or room >= 64) else 0

    @property
    def _fast(self) -> bool:
        """Whether prefetching pays: handlers have been fast, and not all of them have stood still since."""
        if self._average_seconds >= self._prefetch_below:
            return False
        return self.running < self._runners or time.monotonic() - self._last_finish < self._prefetch_below * 5

    @property
    def _bridge(self) -> int:
        """How many slow handlers run, in order, until what is asked for now is here."""
        if not self._in_order or math.isinf(self._last_took):
            # What is not known yet may be fast: a question for a few now would delay the one for many.
            return 0
        usual = max(self._average_seconds, self._prefetch_below, 0.001)
        return min(self._prefetch, int(self.on_their_way / usual))

    async def wait_room(self) -> None:
        """Wait until more may be taken, or until `interrupt`."""
        while self.wanted == 0 and not self._interrupted:
            self._room.clear()
            self._room_wanted = True
            await self._room.wait()

    def interrupt(self) -> None:
        """End `wait_room` now and from now on: a stop must not wait until a long handler makes room."""
        self._interrupted = True
        self._room.set()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Take deliveries in; idle runners begin at once."""
        for delivery in deliveries:
            (self._suspects if delivery.suspect else self._ready).append(delivery)
        self._wake_runners()

    def close(self) -> None:
        """Give nothing more to runners: what waits is handed back; nothing behind it may overtake it."""
        self._closed = True

    def take(self) -> Delivery | None:
        """Give the next delivery to a runner, or None."""
        if self._closed:
            return None
        if self._suspects and not self._gate.running:
            self._gate.enter()
            self.running += 1
            return self._suspects.popleft()
        if not self._ready or (self._in_order and self._suspects):
            return None
        self.running += 1
        return self._ready.popleft()

    async def wait_work(self) -> None:
        """Wait until there may be something to take."""
        blocked = self._closed or (self._in_order and self._suspects and self._gate.running)
        if not blocked and (self._ready or (self._suspects and not self._gate.running)):
            # It came after the caller had looked; nobody would tell it again.
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        if self._runners == 0:
            self._room.set()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._idle:
                self._idle.remove(waiter)
            else:
                # It was told of work that it will not take: tell the next one.
                self._wake_runners()
            raise

    def finished(self, delivery: Delivery, begun: float, ended: float) -> None:
        """A runner is done with a delivery; times are of the monotonic clock."""
        self.running -= 1
        self._last_finish = ended
        if self._in_order:
            # The quicker of the last two: a process that the machine let stand in the middle of one would
            # count as slow for the next hundred, and take them one by one.
            took = ended - begun
            self._average_seconds, self._last_took = min(took, self._last_took), took
        elif self._finished_once:
            self._average_seconds += (ended - begun - self._average_seconds) * _NEWEST
        else:
            self._finished_once = True
            self._average_seconds = ended - begun
        if delivery.suspect:
            self._gate.running = False
            self._wake_runners()
        if self._room_wanted:
            self._tell_room()

    def _tell_room(self) -> None:
        if self._room_wanted and self.wanted:
            self._room_wanted = False
            self._room.set()

    def try_suspects(self) -> None:
        """Wake a runner when a suspect waits and those elsewhere in this process are done."""
        if self._suspects and not self._gate.running:
            self._wake_runners()

    def take_unstarted(self, arrived_before: float) -> list[Delivery]:
        """Remove and return what has waited since before a loop time: it goes back to the others."""
        late = [delivery for delivery in self._ready if delivery.arrived < arrived_before]
        late += [delivery for delivery in self._suspects if delivery.arrived < arrived_before]
        if late:
            self._ready = deque(item for item in self._ready if item.arrived >= arrived_before)
            self._suspects = deque(item for item in self._suspects if item.arrived >= arrived_before)
            # Without this a reader that waits for room would stay deaf where nothing else makes room.
            self._tell_room()
        return late

    def take_blocked(self, patience: float) -> list[Delivery]:
        """Remove and return the suspects behind one that has been running for ``patience`` seconds."""
        if not self._suspects or not self._gate.taken_for(patience):
            return []
        blocked = list(self._suspects)
        self._suspects.clear()
        self._tell_room()
        return blocked

    def take_excess(self) -> list[Delivery]:
        """Remove and return what came beyond the free runners while nothing may wait here."""
        if self._runners == 0 or self._fast:
            return []
        free = max(0, self._runners - self.running)
        excess: list[Delivery] = []
        while len(self._ready) > free:
            excess.append(self._ready.pop())
        self._tell_room()
        return excess

    def wake_more(self) -> None:
        """Wake further runners, by one that has begun to work.

        Each wakes two, so that many are up within a few turns of the loop when handlers wait, and few are
        when one runner does all the work of fast ones.
        """
        if self._idle and self._ready:
            self._wake_runners()

    def _wake_runners(self) -> None:
        able = min(_WOKEN_AT_ONCE, len(self._ready) + (1 if self._suspects and not self._gate.running else 0))
        # Callers that pull do not wake each other: each of them waits for one delivery.
        able = able if self._runners else len(self._ready) + len(self._suspects)
        while self._idle and able > 0:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                able -= 1
