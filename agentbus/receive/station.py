"""Where an incarnation works, and what is particular about that: a reader, duties, policies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import SOURCES, addresses
from agentbus.broker.policies import read_policies
from agentbus.errors import BrokerOutOfMemory
from agentbus.message.address_policy import NO_POLICIES, Policies, Policy
from agentbus.receive.agent import Agent
from agentbus.receive.crew import Crew
from agentbus.receive.delivery import Source
from agentbus.receive.grounds import Grounds
from agentbus.receive.housekeeping import Housekeeper, Nudges
from agentbus.receive.intake import Intake
from agentbus.receive.lease import Lease, clock
from agentbus.receive.place import Place
from agentbus.receive.takeover import Told
from agentbus.receive.workload import Workload

Duty = tuple[str, Callable[[], Awaitable[None]]]
#: Seconds without an arrival, while work waits and runners are free, after which the reader counts as deaf.
_DEAF_AFTER = 10.0


class Reader(Protocol):
    """Takes messages from the broker."""

    @property
    def reconnects(self) -> int:
        """How often the connection was lost; the audit looks after each."""

    async def run(self) -> None:
        """Read until stopped."""

    async def stop(self, reader: asyncio.Task[None]) -> None:
        """End `run`, whose task is given, losing nothing that is on its way."""

    async def close(self) -> None:
        """Close what it opened."""


class Station(Protocol):
    """One kind of work."""

    @property
    def places(self) -> Sequence[Place]:
        """Where it is."""

    @property
    def sources(self) -> Sequence[Source]:
        """The streams of the places."""

    @property
    def gives_back(self) -> bool:
        """Whether what cannot be started soon goes back to the others."""

    @property
    def reader(self) -> Reader:
        """What takes messages in; there after `man`."""

    async def join(self, lease: Lease) -> list[str]:
        """Become known at every place; returns those that nobody had served before."""

    def man(self, crew: Crew) -> None:
        """Make the reader and the duties."""

    def duties(self) -> list[Duty]:
        """Return what to run beside the reader, by name."""

    async def watch(self) -> None:
        """Called several times a second: look after the reader."""

    def policy(self, address: str, message_type: str) -> Policy:
        """Return the policy of a place for a message type, as it was at the join."""

    def siblings(self, address: str) -> int:
        """Return how many consumers serve a place."""

    async def hand_over(self) -> None:
        """Take from its own consumer, which has lost its lease: others need not watch it for as long."""

    async def close(self) -> None:
        """Close what it opened, the reader too."""


async def join_place(lease: Lease, place: Place) -> bool:
    """Become known at one place; returns whether it was served before."""
    sent_at = clock()
    joined = await place.join(lease.consumer, round(lease.seconds * 1000))
    lease.answered(sent_at, joined.server_ms)
    return joined.served_before


class InboxStation:
    """An agent's inbox and those of its pools."""

    gives_back = True
    reader: Intake

    def __init__(self, agent: Agent, grounds: Grounds, tell_dead: Told) -> None:
        self._grounds = grounds
        self._tell_dead = tell_dead
        self.places = [Inbox(grounds.broker, grounds.prefix, address) for address in agent.addresses]
        self.sources = [Source(inbox, index) for inbox in self.places for index in range(len(SOURCES))]
        self._policies: dict[str, Policies] = {}
        self._workload: Workload | None = None
        self._housekeepers: dict[str, Housekeeper] = {}

    async def join(self, lease: Lease) -> list[str]:
        """Become known at every inbox; returns those that nobody had served before."""
        unserved = []
        for inbox in self.places:
            # A full server refuses this, and must be drained all the same; it is repeated each minute.
            with contextlib.suppress(BrokerOutOfMemory):
                await self._grounds.broker.execute("SADD", addresses(self._grounds.prefix), inbox.address)
            self._policies[inbox.address] = await read_policies(inbox, self._grounds.events)
            for source in self.sources:
                if source.inbox is inbox:
                    source.at_most_once = self._policies[inbox.address].at_most_once
            if not await join_place(lease, inbox):
                unserved.append(inbox.address)
        return unserved

    def man(self, crew: Crew) -> None:
        """Make the reader, and a housekeeper for each inbox."""
        grounds = self._grounds
        self._workload = crew.workload
        self.reader = Intake(grounds.broker, self.places, crew, grounds.events)
        self._housekeepers = {
            inbox.address: Housekeeper(
                inbox, crew.lease, grounds.key_window_ms, grounds.retention_of(inbox), self._tell_dead,
                grounds.events,
            )
            for inbox in self.places
        }  # fmt: skip
        self._nudges = Nudges(grounds.broker, list(self._housekeepers.values()))

    def duties(self) -> list[Duty]:
        """Return what the housekeepers do."""
        duties: list[Duty] = [("nudges", self._nudges.run)]
        for keeper in self._housekeepers.values():
            duties += keeper.duties()
        return duties

    async def watch(self) -> None:
        """Rebuild a reader that hears nothing although there is work."""
        assert self._workload is not None
        waiting = any(keeper.seen.waiting for keeper in self._housekeepers.values())
        silent = asyncio.get_running_loop().time() - self.reader.last_arrival
        if waiting and self._workload.wanted > 0 and silent > _DEAF_AFTER:
            await self.reader.rebuild()

    def policy(self, address: str, message_type: str) -> Policy:
        """Return the policy of an inbox for a message type, as it was at the join."""
        return self._policies.get(address, NO_POLICIES).of(message_type)

    def siblings(self, address: str) -> int:
        """Return how many consumers serve an inbox."""
        keeper = self._housekeepers.get(address)
        return keeper.seen.siblings if keeper is not None else 1

    async def hand_over(self) -> None:
        """Take from its own consumer at every inbox, as from a dead one."""
        for keeper in self._housekeepers.values():
            await keeper.hand_over()

    async def close(self) -> None:
        """Close the connections."""
        await self.reader.close()
        await self._nudges.close()
