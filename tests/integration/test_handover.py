"""A process that stood still: what it ran goes on at once, and what ran nothing goes on as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus import Agent, AgentSettings, Bus
from agentbus.receive.lease import Lease
from agentbus.testing import BrokerForTests
from tests.agents.channel_look import ChannelLook
from tests.agents.waiting import eventually

Unique = Callable[[str], str]

#: Seconds. Whoever waits until the beat of the fenced consumer has stood still for as long comes too late.
LEASE = 60.0


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="tester") as opened:
        yield opened


def leases(bus: Bus, agent: str) -> list[Lease]:
    """The leases of an agent in this process: at its inbox, and at each of its channels."""
    return [lease for lease in bus.rooms.grounds.heart._leases if lease.consumer.startswith(f"{agent}.")]


def stand_still(bus: Bus, agent: str) -> None:
    """Let the loop find that the whole process, its thread too, stood still for longer than the lease."""
    for lease in leases(bus, agent):
        lease.answered_at -= 2 * LEASE
        lease.look(stood_still=2 * LEASE)


@pytest.mark.parametrize("where", ["channel", "agent"])
async def test_what_a_process_ran_when_it_stood_still_goes_on_at_once_and_not_after_a_lease(
    bus: Bus, unique: Unique, where: str
) -> None:
    name, begun = unique("reader"), list[int]()
    topic = f"channel.{unique('design')}.note" if where == "channel" else f"agent.{name}.note"
    agent = Agent(name, concurrency=1, settings=AgentSettings(lease=LEASE))

    @agent.on(topic if where == "channel" else "note")
    async def note(body: int) -> None:
        begun.append(body)
        if begun == [1]:
            await asyncio.Event().wait()

    async with bus.serving(agent):
        await bus.publish_many(topic, [1, 2])
        await eventually(lambda: begun == [1])
        stand_still(bus, name)
        await bus.publish(topic, 3)
        await eventually(lambda: begun == [1, 1, 2, 3])
        assert bus.events.counts["fenced"] == 1
        if where == "channel":
            look = ChannelLook(bus.rooms.broker, bus.settings.prefix, topic.removesuffix(".note"), name)
            assert len(await look.alive()) == 1
            await look.settled(processed=3)


async def test_a_process_that_stood_still_and_ran_nothing_goes_on_under_its_name(
    bus: Bus, unique: Unique
) -> None:
    name, channel, seen = unique("reader"), f"channel.{unique('design')}", list[int]()
    agent = Agent(name, settings=AgentSettings(lease=LEASE))

    @agent.on(f"{channel}.note")
    async def note(body: int) -> None:
        seen.append(body)

    look = ChannelLook(bus.rooms.broker, bus.settings.prefix, channel, name)
    async with bus.serving(agent):
        before = await look.alive()
        stand_still(bus, name)
        assert not any(lease.holds for lease in leases(bus, name))
        await bus.publish(f"{channel}.note", 1)
        await eventually(lambda: seen == [1])
        assert (await look.alive()).keys() == before.keys()
        assert bus.events.counts["fenced"] == 0
