"""What the subscribers of an address do for it, so that everything works without a worker process.

Each duty is one short coroutine on its own interval, with jitter, so that a hundred instances do not ask
in the same instant. Nothing here is exclusive: every script decides by itself, so several may run at once
and any of them may die at any point.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

from agentbus.broker.connection import Broker, Link
from agentbus.broker.inbox import Inbox
from agentbus.broker.retention import InboxRetention
from agentbus.errors import BrokerError
from agentbus.events import Events
from agentbus.receive.lease import Lease, clock
from agentbus.receive.takeover import Judge, Takeover, Told, parked_event

#: Seconds between looks at the beats of others.
PATROL_INTERVAL = 0.5
#: Seconds between looks at names that hold something without being alive.
STRANGERS_INTERVAL = 10.0
SWEEP_INTERVAL = 1.0
TRIM_INTERVAL = 5.0
#: Seconds after which is trimmed also where nothing has ended since: by age, or by another policy.
IDLE_TRIM_INTERVAL = 60.0
#: The longest pause of the timer for due messages; a nudge or a nearer due time shortens it.
DUE_INTERVAL = 1.0


@dataclass(slots=True)
class Neighbourhood:
    """What housekeeping has learnt about one address."""

    #: Instances that are alive.
    siblings: int = 1
    #: Whether anything waited at the last sweep.
    waiting: bool = False


class Housekeeper:
    """Keeps house for one inbox on behalf of one consumer."""

    def __init__(
        self,
        inbox: Inbox,
        lease: Lease,
        key_window_ms: int,
        kept: InboxRetention,
        tell_dead: Told,
        events: Events,
    ) -> None:
        self._inbox = inbox
        self._lease = lease
        self._key_window_ms = key_window_ms
        self._kept = kept
        self._judge = Judge(lease.seconds, self._own_beat)
        self._takeover = Takeover(inbox, self._judge, tell_dead, parked_event(events))
        self._nudged = asyncio.Event()
        self._strangers_at = 0.0
        #: What the inbox held, in numbers, when it was last trimmed, and when that was.
        self._trimmed: tuple[Hashable, float] | None = None
        self.seen = Neighbourhood()

    @property
    def inbox(self) -> Inbox:
        """The inbox it keeps."""
        return self._inbox

    def nudge(self) -> None:
        """A new earliest due time was announced."""
        self._nudged.set()

    def duties(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return the coroutines to run, by name."""
        return [
            ("due", self._promote_for_ever),
            ("patrol", lambda: self._every(PATROL_INTERVAL, self.patrol)),
            ("sweep", lambda: self._every(SWEEP_INTERVAL, self.sweep)),
            ("trim", lambda: self._every(TRIM_INTERVAL, self.trim)),
        ]

    async def _every(self, interval: float, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))
            try:
                await duty()
            except BrokerError:
                # The reader reconnects and reports; here only the view of others has become doubtful.
                self._judge.doubt()

    # --- due messages ---

    async def _promote_for_ever(self) -> None:
        pause = 0.0
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._nudged.wait()
            except TimeoutError:
                pass
            self._nudged.clear()
            try:
                pause = await self.promote()
            except BrokerError:
                pause = DUE_INTERVAL

    async def promote(self) -> float:
        """Move what came due; returns the seconds until the next look."""
        while True:
            promoted = await self._inbox.promote(self._key_window_ms)
            if not promoted.more:
                break
        if promoted.next_due_ms is None:
            return DUE_INTERVAL
        return min(DUE_INTERVAL, max(0.001, (promoted.next_due_ms - promoted.server_ms) / 1000))

    # --- the dead ---

    async def patrol(self) -> None:
        """Take over from consumers whose beat has stood still for a lease."""
        asked_at = clock()
        if self._lease.alone_at(self._inbox):
            # Most inboxes have one consumer, and its beat has just told that: a thousand of them in one
            # process would ask two thousand times a second for nothing.
            self.seen.siblings = 1
            self._takeover.look_alone()
        elif not await self._look_at_others(asked_at):
            return
        if asked_at - self._strangers_at >= STRANGERS_INTERVAL:
            self._strangers_at = asked_at
            await self._takeover.take_from_strangers(await self._inbox.strangers())

    async def hand_over(self) -> None:
        """Take from the consumer it keeps house for, which has lost its lease."""
        await self._takeover.take_own(self._lease.consumer)

    async def _look_at_others(self, asked_at: float) -> bool:
        """Fence the dead; returns whether the look was sound."""
        beats = await self._inbox.beats()
        self.seen.siblings = max(1, len(beats))
        if not self._judge.sound(asked_at):
            return False
        seen_at = clock()
        dead = self._takeover.look(beats, seen_at)
        await self._takeover.take([each for each in dead if each[0] != self._lease.consumer], seen_at)
        return True

    def _own_beat(self) -> float | None:
        return None if self._lease.fenced else self._lease.answered_at

    # --- lanes and history ---

    async def sweep(self) -> None:
        """List lanes that a hand-made entry left out, and note whether anything waits."""
        self.seen.waiting = await self._inbox.sweep()

    async def trim(self) -> None:
        """Remove history beyond what is kept; look first, where trimming found all in order before."""
        now, state = clock(), await self._kept.state()
        seen, trimmed_at = self._trimmed or (None, 0.0)
        if state == seen and now < trimmed_at + IDLE_TRIM_INTERVAL:
            return
        # Cut off in between, it begins anew.
        self._trimmed = None
        await self._kept.trim()
        self._trimmed = (state, now)


class Nudges:
    """Listens, over one connection, for new earliest due times of several inboxes."""

    def __init__(self, broker: Broker, housekeepers: Sequence[Housekeeper]) -> None:
        self._link: Link = broker.open_link()
        self._by_channel = {keeper.inbox.keys.nudge.encode(): keeper for keeper in housekeepers}

    async def run(self) -> None:
        """Listen until cancelled. Nudges save time and guard nothing: the timers look by themselves too."""
        while True:
            try:
                await self._link.send("SUBSCRIBE", *self._by_channel)
                while True:
                    pushed = await self._link.read(None)
                    if pushed and pushed[0] == b"message":
                        self._by_channel[pushed[1]].nudge()
            except BrokerError:
                await self._link.close()
                await asyncio.sleep(random.uniform(0.5, 1.5))

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()
