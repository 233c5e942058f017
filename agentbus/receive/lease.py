"""The lease of a consumer, and the thread that keeps it.

One thread per `Heart`, with an event loop and a connection of its own: neither a busy event loop nor bulk
traffic delays a beat. The application's loop leaves a pulse; when that is too old the process counts as
hung and the thread stops beating, so that others take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from agentbus.broker.connection import Broker, Link
from agentbus.broker.scripts import run_all
from agentbus.broker.server_clock import ServerClock
from agentbus.errors import BrokerError
from agentbus.receive.place import Place

#: Seconds between beats.
BEAT_INTERVAL = 1.0
#: Seconds between looks of the application's loop at its leases.
TICK = 0.25
_RETRY_INTERVAL = 0.2

#: Seconds on a clock that goes on while a laptop sleeps; the monotonic one does not.
clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


class Lease:
    """One consumer's right to what it holds."""

    def __init__(
        self,
        consumer: str,
        places: Sequence[Place],
        seconds: float,
        stall_limit: float,
        lost: Callable[[str], None],
        busy: Callable[[], bool],
    ) -> None:
        """``lost`` is told why, once; ``busy`` says whether anything runs that a lost lease would stop."""
        self.consumer = consumer
        self.places = tuple(places)
        self.seconds = seconds
        self.stall_limit = stall_limit
        #: ``serving`` or ``draining``; a draining consumer's death is charged to nobody.
        self.phase = "serving"
        self.fenced = False
        #: When the last answered beat was sent. Sent, not answered: nobody can count from later than that.
        self.answered_at = clock()
        #: Server time minus `clock`, in seconds, as of the last beat.
        self._offset = 0.0
        #: Place to how many consumers lived there at the last answered beat, this one among them.
        self.company: dict[Place, int] = {}
        self._lost = lost
        self._busy = busy
        self._reported = False

    def alone_at(self, place: Place) -> bool:
        """Whether nobody else lived at a place at the last answered beat: there is nobody to look after."""
        return self.company.get(place) == 1

    @property
    def holds(self) -> bool:
        """Whether new work may be started: not fenced, and a beat was answered within the lease."""
        return not self.fenced and self._fresh

    @property
    def _fresh(self) -> bool:
        return clock() - self.answered_at < self.seconds

    def server_ms(self) -> float:
        """Return the broker's clock, as well as it is known here, in ms."""
        return (clock() + self._offset) * 1000

    def answered(self, sent_at: float, server_ms: int) -> None:
        """A beat (or the join) sent at ``sent_at`` was accepted; learn the broker's clock from it."""
        self.answered_at = sent_at
        self._offset = server_ms / 1000 - clock()

    def look(self, stood_still: float) -> None:
        """Called by the loop's timer; ``stood_still`` is how long the timer itself was late, in seconds.

        After a freeze longer than the lease others may own what this process holds: running handlers are
        cancelled before they can run one more line, without asking the broker first. Where nothing runs the
        broker is asked: nothing is started before it has answered, and on a machine that is too busy a
        thousand idle agents would all join anew.
        """
        if self._reported:
            return
        if self.fenced:
            self._report("the broker no longer knows this consumer")
        elif stood_still > self.seconds / 2 and not self._fresh and self._busy():
            self.fenced = True
            self._report(f"this process stood still for {stood_still:.1f} s, longer than its lease")

    def _report(self, why: str) -> None:
        self._reported = True
        self._lost(why)


class Heart:
    """Beats for every lease of one process. Use it from one event loop; the thread is its own affair."""

    def __init__(
        self, make_broker: Callable[[], Broker], clock_jumped: Callable[[float], None] | None = None
    ) -> None:
        """``clock_jumped`` is told, in the application's loop, by how many seconds the server's clock did."""
        self._make_broker = make_broker
        self._clock_jumped = clock_jumped
        self._server_clock = ServerClock()
        self._jumps: deque[float] = deque()
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._pulse = clock()
        self._ticker: asyncio.TimerHandle | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None

    # --- in the application's loop ---

    def add(self, lease: Lease) -> None:
        """Keep a lease from now on."""
        with self._lock:
            self._leases.add(lease)
        if self._thread is None:
            self._stopping.clear()
            self._pulse = clock()
            self._thread = threading.Thread(target=self._run, name="agentbus heart", daemon=True)
            self._thread.start()
        if self._ticker is None:
            self._tick()

    def remove(self, lease: Lease) -> None:
        """Stop beating for a lease, whatever the reason its consumer ended."""
        with self._lock:
            self._leases.discard(lease)
            empty = not self._leases
        if empty and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    async def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        if self._thread_loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended by itself
                self._thread_loop.call_soon_threadsafe(self._wake.set)
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self._thread is not None:
            # Not in this loop: a beat that waits for a stopped broker would hold everything up.
            await asyncio.to_thread(self._thread.join, 5.0)
            self._thread = None

    def _tick(self) -> None:
        now = clock()
        stood_still = max(0.0, now - self._pulse - TICK)
        for lease in tuple(self._leases):
            if self._failure is not None:
                lease.fenced = True
            lease.look(stood_still)
        while self._jumps and self._clock_jumped is not None:
            self._clock_jumped(self._jumps.popleft())
        self._pulse = clock()
        self._ticker = asyncio.get_running_loop().call_later(TICK, self._tick)

    # --- in the thread ---

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_until_stopped())
        except BaseException as error:
            # Without beats everything would be taken over while we go on: the next tick fences instead.
            self._failure = error
            raise

    async def _beat_until_stopped(self) -> None:
        self._wake = asyncio.Event()
        self._thread_loop = asyncio.get_running_loop()
        broker = self._make_broker()
        link = broker.open_link(timeout=2 * BEAT_INTERVAL)
        try:
            while not self._stopping.is_set():
                begun = clock()
                pause = BEAT_INTERVAL if await self._beat(link) else _RETRY_INTERVAL
                await self._wait(max(0.0, pause - (clock() - begun)))
        finally:
            await link.close()

    async def _wait(self, seconds: float) -> None:
        # `stop` is called from another thread: it sets the event through this loop.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _beat(self, link: Link) -> bool:
        lag = max(0.0, clock() - self._pulse - TICK)
        with self._lock:
            leases = [lease for lease in self._leases if not lease.fenced and lag < lease.stall_limit]
        calls = [
            place.beat(lease.consumer, round(lag * 1000), lease.phase)
            for lease in leases
            for place in lease.places
        ]
        if not calls:
            return True
        sent_at = clock()
        try:
            replies = await run_all(link, calls)
        except BrokerError:
            await link.close()
            return False
        self._look_at_clock(replies, sent_at)
        return self._take(leases, replies, sent_at)

    def _look_at_clock(self, replies: Sequence[object], sent_at: float) -> None:
        times = [reply[1] for reply in replies if isinstance(reply, list)]
        jump = self._server_clock.saw(int(times[-1]), sent_at, clock()) if times else None
        if jump is not None:
            self._jumps.append(jump)

    def _take(self, leases: Sequence[Lease], replies: Sequence[object], sent_at: float) -> bool:
        position, accepted = 0, True
        for lease in leases:
            answers = replies[position : position + len(lease.places)]
            position += len(lease.places)
            if any(isinstance(answer, BrokerError) for answer in answers):
                accepted = False
            elif all(isinstance(answer, list) and answer[0] == 1 for answer in answers):
                first = answers[0]
                assert isinstance(first, list)
                lease.answered(sent_at, int(first[1]))
                lease.company = {
                    place: int(answer[2])
                    for place, answer in zip(lease.places, answers, strict=True)
                    if isinstance(answer, list)
                }
            else:
                # Fenced at one address is fenced: a consumer has one name everywhere.
                lease.fenced = True
        return accepted
