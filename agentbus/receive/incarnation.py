"""One life of a subscriber: from joining under a new name to leaving, or to losing the lease.

A consumer that was fenced can settle nothing any more, so it does not try to mend itself: the subscriber
begins a new incarnation with a new name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

from agentbus.broker.answers import RawEntry
from agentbus.broker.keys import addresses
from agentbus.broker.wake import Announcer
from agentbus.errors import (
    BrokerError,
    BrokerOutOfMemory,
    BrokerRefused,
    BrokerUnavailable,
    StaleDelivery,
)
from agentbus.message.address_policy import Policy
from agentbus.message.backoff import Backoff
from agentbus.message.durations import seconds
from agentbus.receive.agent import Agent
from agentbus.receive.audit import Audit
from agentbus.receive.crew import Crew
from agentbus.receive.delivery import Delivery
from agentbus.receive.execution import Execution
from agentbus.receive.grounds import Grounds
from agentbus.receive.lease import Lease
from agentbus.receive.outcome import RELEASED, Kind, Outcome
from agentbus.receive.place import Place
from agentbus.receive.settler import Settler
from agentbus.receive.station import Duty, Station
from agentbus.receive.workload import Workload

#: A runner lets the event loop breathe after this many deliveries in a row that never waited.
_BREATHE_AFTER = 32
#: Seconds that a runner rests after handing back a type that nobody here handles. Without it the instance
#: that cannot do the work would be the fastest at taking it, three times, and bury what a sibling could do.
_STEP_BACK = 0.1
_ADDRESS_INTERVAL = 60.0
#: Whatever may be a message to named agents has this; looked for before anything is decoded.
NAMED = b'"recipients":['
_START_CHECK = 0.25
#: Where nothing is given back, only a suspect behind another one waits for this.
_SUSPECT_CHECK = 1.0


def consumer_name(agent: str) -> str:
    """Return a name nobody had before: agent, host and process for people, and a token for certainty."""
    host = "".join(
        character if character.isalnum() or character == "-" else "-" for character in socket.gethostname()
    )
    return f"{agent}.{host[:40]}.{os.getpid()}.{secrets.token_hex(4)}"


class Incarnation:
    """One consumer name and everything that runs under it."""

    def __init__(
        self, agent: Agent, grounds: Grounds, execution: Execution, station: Station, runners: int
    ) -> None:
        self._agent = agent
        self._grounds = grounds
        self._execution = execution
        self._station = station
        self._runner_count = runners
        settings = agent.settings
        self._start_within = seconds(settings.start_within, "start_within")
        self.consumer = consumer_name(agent.name)
        self._by_place = {(source.inbox, source.index): source for source in station.sources}
        self.ended = asyncio.Event()
        self.lost: str | None = None
        self.lease = Lease(
            self.consumer, station.places, seconds(settings.lease, "lease"), _stall_limit(agent), self._lose,
            self._busy,
        )  # fmt: skip
        self.workload = Workload(
            runners, settings.prefetch, seconds(settings.prefetch_below, "prefetch_below"), grounds.gate,
            in_order=not station.gives_back,
        )  # fmt: skip
        self.settler = Settler(
            self.consumer, station.sources, execution, grounds.events, self._lose,
            Announcer(grounds.broker, grounds.prefix, grounds.events),
        )  # fmt: skip
        station.man(Crew(self.lease, self.workload, self.accept, self._lose, lambda: self.settler.unsettled))
        self._runners: list[asyncio.Task[None]] = []
        self._children: list[asyncio.Task[None]] = []
        self._reader: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None

    # --- life ---

    async def join(self) -> list[str]:
        """Become known at every place; returns those that nobody had served before."""
        return await self._station.join(self.lease)

    async def live(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Work until ``stop`` is set or the lease is lost; a child that fails ends all of it."""
        async with asyncio.TaskGroup() as group:
            self._start(group)
            ready()
            stopped = group.create_task(stop.wait(), name="agentbus stop")
            ended = group.create_task(self.ended.wait(), name="agentbus ended")
            try:
                await asyncio.wait((stopped, ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
                ended.cancel()
                await self._end()

    def _start(self, group: asyncio.TaskGroup) -> None:
        """Begin the named children: the whole concurrency of a subscriber."""
        self._grounds.heart.add(self.lease)
        name = self._agent.name
        self._reader = group.create_task(self._station.reader.run(), name=f"agentbus reader {name}")
        self._runners = [
            group.create_task(self._run_deliveries(), name=f"agentbus runner {name} {number}")
            for number in range(self._runner_count)
        ]
        reader = self._station.reader
        audit = Audit(
            self.consumer, self._station.sources, self.accept, lambda: reader.reconnects, self._grounds.events
        )
        self._settling = group.create_task(_forever(self.settler.run), name=f"agentbus settler {name}")
        duties: list[Duty] = [
            ("audit", audit.run),
            ("watch", self._watch),
            ("addresses", self._note_addresses),
            *self._station.duties(),
        ]
        self._children = [
            group.create_task(_forever(duty), name=f"agentbus {duty_name} {name}")
            for duty_name, duty in duties
        ]
        self._children.append(self._settling)

    def _lose(self, why: str) -> None:
        """The lease is gone: cancel what runs at once, before it can run one more line."""
        if self.lost is not None:
            return
        self.lost = why
        self.lease.fenced = True
        for source in self._station.sources:
            for delivery in source.held.values():
                delivery.revoked = True
        for runner in self._runners:
            runner.cancel()
        self.settler.abandon()
        self._grounds.events.emit("fenced", self.lease.places[0].address, why, consumer=self.consumer)
        self.ended.set()

    async def _end(self) -> None:
        """Stop reading, hand back what has not begun, finish what runs, settle, leave."""
        try:
            if self.lost is None:
                await self._drain()
        finally:
            self._grounds.heart.remove(self.lease)
            for task in (*self._runners, *self._children, self._reader):
                if task is not None:
                    task.cancel()
            await self._station.close()
            if self.lost is None:
                await self._leave()

    async def hand_over(self) -> None:
        """After a fence: let whoever comes next go on at once; raises `BrokerUnavailable`.

        The broker may still count this consumer among the living, as after a freeze, and others would watch
        it for a lease. Called when nothing of it runs any more.
        """
        # What is refused they notice by the beat.
        with contextlib.suppress(BrokerRefused):
            await self._station.hand_over()

    def begin_nothing(self) -> None:
        """Begin no further delivery; what runs goes on."""
        self.workload.close()

    async def _drain(self) -> None:
        patience = seconds(self._agent.settings.drain, "drain")
        assert self._reader is not None
        # From here on this consumer's death is nobody's fault: a deployment must not kill a long task.
        self.lease.phase = "draining"
        if not self._station.gives_back:
            self.begin_nothing()
        try:
            async with asyncio.timeout(patience):
                await self._station.reader.stop(self._reader)
                self._give_back(self.workload.take_unstarted(float("inf")))
                # What was pulled ends when its owner settles it; a caller that leaves hands it back.
                while self._runners and self.workload.running and self.lost is None:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            # Unfinished handlers are cancelled; each releases its message (see _run_one).
            for runner in self._runners:
                runner.cancel()
            if self._runners:
                await asyncio.wait(self._runners, timeout=1.0)
        self._give_back([delivery for delivery in self._held() if not delivery.settled])
        await self._wait_settled(max(2.0, min(patience, 10.0)))

    async def _wait_settled(self, patience: float) -> None:
        """Wait until the broker has confirmed everything, unless the settler ended with a failed child."""
        assert self._settling is not None
        idle = asyncio.ensure_future(self.settler.wait_idle())
        try:
            await asyncio.wait((idle, self._settling), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()

    async def _leave(self) -> None:
        for place in self.lease.places:
            # An unreachable broker is left without a word: the others notice by the beat.
            with contextlib.suppress(BrokerError):
                await place.leave(self.consumer)

    def _busy(self) -> bool:
        """Whether anything runs: here, or in the hands of those who pull."""
        return self.workload.running > 0 or (self._runner_count == 0 and bool(self._held()))

    def _held(self) -> list[Delivery]:
        return [delivery for source in self._station.sources for delivery in source.held.values()]

    # --- deliveries ---

    def accept(self, place: Place, entries: Sequence[RawEntry]) -> None:
        """Take entries that the broker handed to this consumer into the local map and the workload."""
        now = asyncio.get_running_loop().time()
        deliveries = []
        for entry in entries:
            source = self._by_place[place, entry.source]
            if entry.entry_id in source.held:
                # After a failover to an older state of the group the same entry is handed out again. It is
                # in work here, and its settlement will end it.
                continue
            delivery = Delivery(source, entry, now, self.settler)
            if NAMED in entry.message:
                self._execution.keep_receipt(delivery)
            source.held[entry.entry_id] = delivery
            deliveries.append(delivery)
        self.workload.add(deliveries)
        if self._station.gives_back:
            self._put_off_suspects()
            self._give_back(self.workload.take_excess())

    def _put_off_suspects(self) -> None:
        """Put off suspects that a long one keeps from starting.

        Handed back at once they would be read again at once, before everything else, and keep the runners
        from all other work for as long as the long one runs.
        """
        for delivery in self.workload.take_blocked(self._start_within):
            later = Outcome(Kind.DEFERRED, random.randint(2_000, 4_000), "suspect")
            # Decoded first: the message waits under its own id.
            self.settler.settle(delivery, self._execution.open(delivery) or later)

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.settler.settle(delivery, RELEASED)

    async def _run_deliveries(self) -> None:
        """One runner: take, run, settle; long-lived, because a task per message would cost more than it."""
        in_a_row = 0
        while True:
            delivery = self.workload.take()
            if delivery is None:
                in_a_row = 0
                await self.workload.wait_work()
                continue
            if in_a_row == 0:
                self.workload.wake_more()
            if not self.lease.holds:
                await self._wait_for_lease()
            await self._run_one(delivery)
            in_a_row += 1
            if in_a_row >= _BREATHE_AFTER:
                in_a_row = 0
                await asyncio.sleep(0)

    async def _wait_for_lease(self) -> None:
        """Start nothing while the last answered beat is older than a lease."""
        while not self.lease.holds:
            await asyncio.sleep(0.02)

    async def _run_one(self, delivery: Delivery) -> None:
        begun = time.monotonic()
        try:
            if delivery.suspect:
                await self.mark_started(delivery)
            outcome = await self._execution.run(delivery)
            self.settler.settle(delivery, outcome)
            if outcome.kind is Kind.BOUNCED:
                await asyncio.sleep(_STEP_BACK)
        except StaleDelivery as error:
            self._lose(str(error))
        except asyncio.CancelledError:
            # A stop that could wait no longer: hand the message back, nothing spent. After a fence the
            # settler refuses, and the others have it already.
            if not delivery.revoked:
                self.settler.settle(delivery, RELEASED)
            raise
        finally:
            self.workload.finished(delivery, begun, time.monotonic())

    async def mark_started(self, delivery: Delivery) -> None:
        """Charge this one, and not its neighbours, if the process dies now."""
        backoff = Backoff()
        while True:
            try:
                await delivery.source.inbox.mark_started(self.consumer, delivery.entry)
                return
            except (BrokerUnavailable, BrokerOutOfMemory):
                await asyncio.sleep(backoff.next_pause())
            except BrokerRefused as error:
                # Without the mark a death charges nobody; that is better than not running it at all.
                self._grounds.events.emit("settlement_refused", delivery.address, str(error))
                return

    # --- watching itself ---

    async def _watch(self) -> None:
        """Give back what has not started in time; look after the reader."""
        loop = asyncio.get_running_loop()
        interval = _START_CHECK if self._station.gives_back else _SUSPECT_CHECK
        while True:
            await asyncio.sleep(interval)
            if self._station.gives_back:
                self._put_off_suspects()
                self._give_back(self.workload.take_unstarted(loop.time() - self._start_within))
            else:
                self.workload.try_suspects()
            await self._station.watch()

    async def _note_addresses(self) -> None:
        """Repeat which addresses are in use: the set may be lost with a server."""
        while True:
            await asyncio.sleep(_ADDRESS_INTERVAL)
            with contextlib.suppress(BrokerError):
                names = [place.address for place in self.lease.places]
                await self._grounds.broker.execute("SADD", addresses(self._grounds.prefix), *names)

    def policy(self, address: str, message_type: str) -> Policy:
        """The policy of an address for a message type, as it was when this consumer joined."""
        return self._station.policy(address, message_type)

    def siblings(self, address: str) -> int:
        """How many instances serve an address."""
        return self._station.siblings(address)


async def _forever(duty: Callable[[], Awaitable[None]]) -> None:
    await duty()


def _stall_limit(agent: Agent) -> float:
    """Return how old the loop's pulse may be: the longest handler's timeout, if every one has one."""
    limit = seconds(agent.settings.stall_limit, "stall_limit")
    timeouts = [handler.timeout for handler in agent.all_handlers]
    if timeouts and all(timeout is not None for timeout in timeouts):
        longest = max(timeout for timeout in timeouts if timeout is not None)
        return min(limit, longest + seconds(agent.settings.lease, "lease"))
    return limit
