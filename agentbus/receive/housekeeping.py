"""What the subscribers of an address do for it, so that everything works without a worker process.

Each duty is one short coroutine on its own interval, with jitter, so that a hundred instances do not ask
in the same instant. Nothing here is exclusive: every script decides by itself, so several may run at once
and any of them may die at any point.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentbus.broker.connection import Broker, Link
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import SOURCES
from agentbus.errors import BrokerError, InvalidValue
from agentbus.events import Events
from agentbus.message.address_policy import Policy
from agentbus.message.durations import milliseconds
from agentbus.receive.lease import BEAT_INTERVAL, Lease, clock
from agentbus.receive.liveness import Observations
from agentbus.settings import RetentionSettings

#: Seconds between looks at the beats of others.
PATROL_INTERVAL = 0.5
#: Seconds between looks at names that hold something without being alive.
STRANGERS_INTERVAL = 10.0
SWEEP_INTERVAL = 1.0
TRIM_INTERVAL = 5.0
#: The longest pause of the timer for due messages; a nudge or a nearer due time shortens it.
DUE_INTERVAL = 1.0

NO_POLICY = Policy()

Told = Callable[[Inbox, Sequence[bytes]], Awaitable[None]]


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
        retention: RetentionSettings,
        events: Events,
        tell_dead: Told,
    ) -> None:
        self._inbox = inbox
        self._lease = lease
        self._key_window_ms = key_window_ms
        self._retention = retention
        self._events = events
        self._tell_dead = tell_dead
        self._observations = Observations(lease.seconds)
        self._nudged = asyncio.Event()
        self._strangers_at = 0.0
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
                self._observations.doubt()

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
        beats = await self._inbox.beats()
        now = clock()
        self.seen.siblings = max(1, len(beats))
        if not self._sound_look(asked_at, now):
            self._observations.doubt()
            return
        for consumer, beat in self._observations.look(time.monotonic(), beats):
            if consumer != self._lease.consumer:
                await self._take_over(consumer, beat)
        if now - self._strangers_at >= STRANGERS_INTERVAL:
            self._strangers_at = now
            await self._take_from_strangers(beats)

    def _sound_look(self, asked_at: float, now: float) -> bool:
        """Whether this process may judge others: it is answered in time, and its own beats are accepted."""
        answered_in_time = now - asked_at < BEAT_INTERVAL
        own_beat_accepted = now - self._lease.answered_at < 2.5 * BEAT_INTERVAL
        return answered_in_time and own_beat_accepted and not self._lease.fenced

    async def _take_over(self, consumer: str, beat: str) -> None:
        step = await self._inbox.reclaim(consumer, beat)
        while step is not None:
            if step.dead:
                await self._tell_dead(self._inbox, step.dead)
            if not step.more:
                return
            step = await self._inbox.reclaim(consumer, "", charge=step.charged)

    async def _take_from_strangers(self, beats: dict[str, str]) -> None:
        """A name that is not alive holds nothing by right: a parked read may still have been given work."""
        for holding in await self._inbox.holdings():
            if holding.name not in beats:
                await self._take_over(holding.name, "")

    # --- lanes and history ---

    async def sweep(self) -> None:
        """List lanes that a hand-made entry left out, and note whether anything waits."""
        self.seen.waiting = await self._inbox.sweep()

    async def trim(self) -> None:
        """Remove history beyond what is kept."""
        policy, kept = await read_policy(self._inbox, self._events), self._retention
        messages = kept.messages if policy.history_messages is None else policy.history_messages
        most_bytes = kept.bytes if policy.history_bytes is None else policy.history_bytes
        age = kept.age if policy.history_age is None else policy.history_age
        archived_only = policy.must_be_archived and await self._inbox.archive_is_on()
        more = True
        while more:
            # A sixth each: an address has six streams.
            _, more = await self._inbox.trim(
                messages, milliseconds(age, "age"), most_bytes // len(SOURCES), archived_only
            )
            await asyncio.sleep(0)


async def read_policy(inbox: Inbox, events: Events) -> Policy:
    """Return the declared policy of an address; one written by hand that is none counts as absent."""
    try:
        return Policy.from_fields(await inbox.policy_fields())
    except InvalidValue as error:
        events.emit("policy_ignored", inbox.address, f"{inbox.keys.policy}: {error}")
        return NO_POLICY


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
