"""The reader: fetches while there is work, parks while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentbus.broker.answers import RawEntry
from agentbus.broker.connection import Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.parked_read import park
from agentbus.errors import BrokerError, BrokerRefused, GroupMissing, StaleDelivery
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.receive.crew import Crew

#: How long one parked read lasts. The link counts as dead two seconds later.
PARK_MS = 2_000
#: Bytes of messages in one fetch.
FETCH_BYTES = 1024 * 1024
#: Handled messages that the broker has not confirmed, beyond which no more are taken: all of them would run
#: again if this process died, and after an outage the reader is often back before the settlements.
MOST_UNSETTLED = 1_000
SETTLING_PAUSE = 0.002


class Intake:
    """Takes messages from the inboxes of one consumer."""

    def __init__(self, broker: Broker, inboxes: Sequence[Inbox], crew: Crew, events: Events) -> None:
        self._broker = broker
        self._inboxes = inboxes
        self._lease = crew.lease
        self._workload = crew.workload
        self._accept = crew.accept
        self._fenced = crew.lose
        self._events = events
        self._unsettled = crew.unsettled
        self._link = broker.open_link()
        self._client_id: int | None = None
        #: Which connection of the link has that id.
        self._client_of = 0
        self._parked = False
        self._stopping = False
        self._turn = 0
        #: Counts reconnects, so that the audit looks after each.
        self.reconnects = 0
        #: Loop time at which something last arrived; the watch against deafness reads it.
        self.last_arrival = asyncio.get_running_loop().time()

    # --- the child task ---

    async def run(self) -> None:
        """Read until stopped."""
        backoff = Backoff()
        while True:
            await self._workload.wait_room()
            if self._stopping:
                return
            if not self._lease.holds:
                # What is taken now could not be started; the beat comes back, or the fence.
                await asyncio.sleep(0.05)
                continue
            if self._unsettled() > MOST_UNSETTLED:
                await asyncio.sleep(SETTLING_PAUSE)
                continue
            try:
                if not await self._fetch_round() and not self._stopping:
                    await self._park()
                backoff.reset()
            except StaleDelivery as error:
                self._fenced(str(error))
                return
            except BrokerError as error:
                await self._recover(error, backoff)

    async def stop(self, reader: asyncio.Task[None]) -> None:
        """End the reader without cancelling a parked read: what is on its way would be stranded."""
        self._stopping = True
        self._workload.interrupt()
        while not reader.done():
            # Unblocking before the read has parked does nothing, so it is repeated until the reader ended.
            if self._parked and self._client_id is not None:
                try:
                    await self._broker.execute("CLIENT", "UNBLOCK", self._client_id)
                except BrokerError:
                    await self._link.close()
            await asyncio.wait([reader], timeout=0.02)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def rebuild(self) -> None:
        """Drop the connection under the reader: it hears nothing although there is work."""
        self._events.emit("rebuilt", self._inboxes[0].address, "work waits and none arrives; new connection")
        self.last_arrival = asyncio.get_running_loop().time()
        self._client_id = None
        await self._link.close()

    # --- steps ---

    async def _fetch_round(self) -> bool:
        """Fetch from each inbox, beginning with another one each time; True when anything came."""
        any_taken = False
        count = len(self._inboxes)
        self._turn += 1
        for offset in range(count):
            wanted = self._workload.wanted
            if wanted == 0:
                return True
            inbox = self._inboxes[(self._turn + offset) % count]
            entries = await inbox.fetch(self._lease.consumer, wanted, FETCH_BYTES, link=self._link)
            if entries:
                any_taken = True
                self._arrived(inbox, entries)
        return any_taken

    async def _park(self) -> None:
        # A link finds a new connection by itself, after a restart of the server say: with the id of the one
        # before, a stop would unblock nobody and last as long as the park.
        if self._client_id is None or self._client_of != self._link.opened:
            self._client_id = int(await self._link.execute("CLIENT", "ID"))
            self._client_of = self._link.opened
        self._parked = True
        try:
            if self._stopping:
                return
            taken = await park(self._link, self._inboxes, self._lease.consumer, PARK_MS)
        finally:
            self._parked = False
        for index, entry in taken:
            self._arrived(self._inboxes[index], (entry,))
        # The handler begins before the next fetch leaves: sending takes as long as all of its way here.
        await asyncio.sleep(0)

    def _arrived(self, inbox: Inbox, entries: Sequence[RawEntry]) -> None:
        self.last_arrival = asyncio.get_running_loop().time()
        self._accept(inbox, entries)

    async def _recover(self, error: BrokerError, backoff: Backoff) -> None:
        """After an error: a new connection, the groups if they are gone, and a pause with full jitter."""
        self._client_id = None
        self.reconnects += 1
        await self._link.close()
        if isinstance(error, GroupMissing):
            # FLUSHALL or DEL: our own field may be gone too, then the next beat fences us and we join anew.
            await self._make_groups()
        elif isinstance(error, BrokerRefused):
            self._events.emit("read_refused", self._inboxes[0].address, str(error))
            await asyncio.sleep(1.0)
        await asyncio.sleep(backoff.next_pause())

    async def _make_groups(self) -> None:
        for inbox in self._inboxes:
            try:
                if await inbox.make_groups():
                    self._events.emit(
                        "data_lost",
                        inbox.address,
                        "its streams or groups were deleted; made anew from the start",
                    )
            except BrokerError:
                return
