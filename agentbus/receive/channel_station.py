"""An agent at a channel: it reads the log by its own cursor, in order unless it asked for more at a time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

from agentbus.broker.keys import addresses
from agentbus.broker.subscription import LOG, Gap, Subscription
from agentbus.errors import BrokerError, BrokerOutOfMemory
from agentbus.message.address_policy import NO_POLICY, Policy
from agentbus.receive.agent import Agent
from agentbus.receive.crew import Crew
from agentbus.receive.delivery import Source
from agentbus.receive.following import Following
from agentbus.receive.grounds import Grounds
from agentbus.receive.housekeeping import PATROL_INTERVAL
from agentbus.receive.lease import BEAT_INTERVAL, Lease, clock
from agentbus.receive.log_intake import LogIntake
from agentbus.receive.place import Place
from agentbus.receive.station import Duty, join_place
from agentbus.receive.takeover import Judge, Takeover

#: Seconds between two trims of the log by one subscriber. A thousand of them may follow one channel, and
#: workers do it too.
_TRIM_INTERVAL = 30.0


class ChannelStation:
    """The log of one channel."""

    reader: LogIntake

    def __init__(self, agent: Agent, following: Following, grounds: Grounds, came_back: bool) -> None:
        """``came_back``: this process had a cursor here, so a new one begins with the oldest message."""
        self._grounds = grounds
        self._address = following.address
        self._subscription = Subscription(
            grounds.broker, grounds.prefix, following.address, agent.name,
            "0" if came_back else following.start, following.in_order, grounds.carrier, self._tell_gap,
        )  # fmt: skip
        self.gives_back = not following.in_order
        self.places: Sequence[Place] = (self._subscription,)
        self.sources = (Source(self._subscription, LOG),)
        self._crew: Crew | None = None
        self._siblings = 1

    async def join(self, lease: Lease) -> list[str]:
        """Become known at the channel, with a cursor."""
        with contextlib.suppress(BrokerOutOfMemory):
            await self._grounds.broker.execute("SADD", addresses(self._grounds.prefix), self._address)
        return [] if await join_place(lease, self._subscription) else [self._address]

    def man(self, crew: Crew) -> None:
        """Make the reader, and what judges other consumers of this agent."""
        grounds = self._grounds
        self._crew = crew
        self.reader = LogIntake(self._subscription, grounds.watch, crew, grounds.events)
        self._judge = Judge(crew.lease.seconds, self._own_beat)
        self._takeover = Takeover(self._subscription, self._judge, _nobody_died)

    def duties(self) -> list[Duty]:
        """Return the looks at others, and the removal of what need not be kept."""
        return [("patrol", self._patrol_for_ever), ("trim", self._trim_for_ever)]

    async def watch(self) -> None:
        """Do nothing: the reader looks at the log by itself when it hears nothing."""

    def policy(self, address: str, message_type: str) -> Policy:
        """Return that a channel says nothing about how its messages are handled."""
        return NO_POLICY

    def siblings(self, address: str) -> int:
        """Return how many consumers of this agent there are."""
        return self._siblings

    async def hand_over(self) -> None:
        """Free the place of its own consumer: the next one would stand by for a lease and longer."""
        assert self._crew is not None
        await self._takeover.take_own(self._crew.lease.consumer)

    async def close(self) -> None:
        """Listen no more."""
        await self.reader.close()

    def _tell_gap(self, gap: Gap) -> None:
        missed = "some" if gap.missed is None else gap.missed
        self._grounds.events.emit(
            "gap",
            self._address,
            f"{missed} messages were removed by retention before {self._subscription.agent} had read them"
            + (f", after entry {gap.after}" if gap.after else ""),
            missed=gap.missed,
            agent=self._subscription.agent,
        )

    # --- duties ---

    async def _patrol_for_ever(self) -> None:
        while True:
            interval = PATROL_INTERVAL if self._siblings > 1 else BEAT_INTERVAL
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))
            try:
                await self._patrol()
            except BrokerError:
                self._judge.doubt()

    async def _patrol(self) -> None:
        """Fence consumers of this agent whose beat has stood still for a lease."""
        assert self._crew is not None
        if self._crew.lease.alone_at(self._subscription):
            self._siblings = 1
            self._takeover.look_alone()
            return
        asked_at = clock()
        beats = await self._subscription.beats()
        self._siblings = max(1, len(beats))
        if not self._judge.sound(asked_at):
            return
        seen_at = clock()
        dead = self._takeover.look(beats, seen_at)
        others = [each for each in dead if each[0] != self._crew.lease.consumer]
        if others:
            await self._takeover.take(others, seen_at)
            # The place may be free now; at the next look by the clock it would be a second later.
            self.reader.look()

    def _own_beat(self) -> float | None:
        assert self._crew is not None
        return None if self._crew.lease.fenced else self._crew.lease.answered_at

    async def _trim_for_ever(self) -> None:
        retention = self._grounds.channel_retention_of(self._address)
        while True:
            await asyncio.sleep(_TRIM_INTERVAL * random.uniform(0.5, 1.5))
            with contextlib.suppress(BrokerError):
                await retention.trim()


async def _nobody_died(place: Place, texts: Sequence[bytes]) -> None:
    """A takeover here makes no dead letters: whoever reads the entry next decides."""
