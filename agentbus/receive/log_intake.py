"""The reader of a channel's log: fetches while there is something, sleeps until the log has grown."""

from __future__ import annotations

import asyncio

from agentbus.broker.log_watch import LogWatch
from agentbus.broker.subscription import Subscription
from agentbus.errors import BrokerError, BrokerRefused, GroupMissing, StaleDelivery
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.receive.crew import Crew
from agentbus.receive.intake import FETCH_BYTES, MOST_UNSETTLED, SETTLING_PAUSE
from agentbus.receive.lease import clock

#: Seconds after which the log is looked at also where nothing was heard of it: another consumer of the agent
#: may have left …
_LOOK_INTERVAL = 1.0
#: … or, where there is none, the word that the log has grown was lost.
_LOOK_ALONE_INTERVAL = 5.0


class LogIntake:
    """Takes messages from one channel for one consumer."""

    def __init__(self, subscription: Subscription, watch: LogWatch, crew: Crew, events: Events) -> None:
        self._subscription = subscription
        self._watch = watch
        self._lease = crew.lease
        self._workload = crew.workload
        self._accept = crew.accept
        self._fenced = crew.lose
        self._events = events
        self._unsettled = crew.unsettled
        self._grown = asyncio.Event()
        self._stopping = False
        subscription.handed_back = self._look_soon
        #: Counts reconnects, so that the audit looks after each.
        self.reconnects = 0

    async def run(self) -> None:
        """Read until stopped."""
        backoff = Backoff()
        self._watch.follow(self._subscription.keys.log, self._grown)
        while not self._stopping:
            await self._workload.wait_room()
            try:
                if self._may_fetch() and not await self._fetch():
                    await self._wait_for_more()
                backoff.reset()
            except StaleDelivery as error:
                self._fenced(str(error))
                return
            except BrokerError as error:
                await self._recover(error)
                await asyncio.sleep(backoff.next_pause())
            else:
                await self._breathe()

    def look(self) -> None:
        """Look at the log now, although nothing was heard of it."""
        self._grown.set()

    async def stop(self, reader: asyncio.Task[None]) -> None:
        """End the reader; what it is being handed still arrives."""
        self._stopping = True
        self._workload.interrupt()
        self._grown.set()
        await asyncio.wait([reader])

    async def close(self) -> None:
        """Listen no more."""
        self._watch.unfollow(self._subscription.keys.log, self._grown)

    def _may_fetch(self) -> bool:
        return not self._stopping and self._lease.holds and self._unsettled() <= MOST_UNSETTLED

    async def _fetch(self) -> bool:
        wanted = self._workload.wanted
        if wanted == 0:
            return True
        # Before the question: what comes while it is under way sets the event again.
        self._grown.clear()
        asked_at = clock()
        entries = await self._subscription.fetch(self._lease.consumer, wanted, FETCH_BYTES)
        if entries:
            self._workload.on_their_way = clock() - asked_at
            self._accept(self._subscription, entries)
        return bool(entries)

    async def _wait_for_more(self) -> None:
        if self._stopping:
            return
        alone = self._lease.alone_at(self._subscription) and not self._subscription.standing_by
        try:
            async with asyncio.timeout(_LOOK_ALONE_INTERVAL if alone else _LOOK_INTERVAL):
                await self._grown.wait()
        except TimeoutError:
            pass

    def _look_soon(self) -> None:
        # Not at once: who hands back has no hands free, and would get the same again and again.
        asyncio.get_running_loop().call_later(_LOOK_INTERVAL, self._grown.set)

    async def _breathe(self) -> None:
        if not self._lease.holds:
            # What is taken now could not be started; the beat comes back, or the fence.
            await asyncio.sleep(0.05)
        elif self._unsettled() > MOST_UNSETTLED:
            await asyncio.sleep(SETTLING_PAUSE)

    async def _recover(self, error: BrokerError) -> None:
        self.reconnects += 1
        address = self._subscription.address
        if isinstance(error, GroupMissing):
            if await self._make_cursor():
                self._events.emit("data_lost", address, "its cursor was deleted; made anew where it stood")
        elif isinstance(error, BrokerRefused):
            self._events.emit("read_refused", address, str(error))
            await asyncio.sleep(1.0)

    async def _make_cursor(self) -> bool:
        try:
            return await self._subscription.make_groups()
        except BrokerError:
            return False
