"""What subscribers do for their address, so that nobody else has to."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from agentbus import Agent, AgentSettings, Bus
from agentbus.message.policy import PRIORITIES
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


async def test_the_sweep_lists_lanes_that_an_entry_made_by_hand_left_out(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await look.inbox.make_groups()
    text = json.dumps({"message_id": "m", "message_type": "task"})
    for stream in look.keys.priority_lanes:
        await bus.rooms.broker.execute("XADD", stream, "*", "message", text)
    assert await bus.rooms.broker.execute("ZCARD", look.keys.lanes) == 0
    assert await look.inbox.sweep()
    listed = await bus.rooms.broker.execute("ZRANGE", look.keys.lanes, 0, -1)
    assert [lane.decode() for lane in listed] == list(PRIORITIES)


async def test_a_sweep_of_an_empty_address_lists_nothing(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    assert not await look.inbox.sweep()
    await look.inbox.make_groups()
    assert not await look.inbox.sweep()
    assert await bus.rooms.broker.execute("ZCARD", look.keys.lanes) == 0


async def test_a_dead_consumer_is_taken_over_within_a_lease_and_its_name_goes(bus: Bus, name: str) -> None:
    agent, look, seen = Agent(name, settings=AgentSettings(lease=2.0)), Look(bus, name), []

    @agent.on("task")
    async def handle(body: int) -> None:
        seen.append(body)

    await bus.publish_many(f"agent.{name}.task", range(3))
    await look.inbox.join("dead")
    await look.inbox.fetch("dead", 3, 1 << 20)
    async with bus.serving(agent):
        await eventually(lambda: len(seen) == 3, 5)
        assert "dead" not in await look.alive()
        assert "dead" not in await look.group_consumers()
    assert await look.count("reclaimed") == 3
    await look.check_balance()


async def test_a_consumer_that_beats_is_left_alone_however_long_it_holds(bus: Bus, name: str) -> None:
    agent, look = Agent(name, settings=AgentSettings(lease=2.0)), Look(bus, name)
    await bus.publish(f"agent.{name}.task", None)
    await look.inbox.join("busy")
    await look.inbox.fetch("busy", 1, 1 << 20)

    async def beats_and_holds() -> bool:
        await bus.rooms.broker.execute(*look.inbox.beat("busy", 0, "serving").by_text())
        return await look.pending("busy") == 1

    async with bus.serving(agent):
        await stays(beats_and_holds, 4.5)
    assert await look.count("reclaimed") == 0


async def test_an_address_in_use_is_noted(bus: Bus, name: str) -> None:
    async with bus.serving(Agent(name)):
        noted = await bus.rooms.broker.execute("SISMEMBER", "agentbus:addresses", f"agent.{name}")
        assert noted == 1


async def test_a_consumer_name_that_is_in_use_cannot_be_joined(bus: Bus, name: str) -> None:
    from agentbus import BrokerRefused

    look = Look(bus, name)
    await look.inbox.join("once")
    with pytest.raises(BrokerRefused, match="once"):
        await look.inbox.join("once")


async def test_leaving_with_something_in_hand_keeps_the_name_until_a_sweep_has_taken_it(
    bus: Bus, name: str
) -> None:
    """Deleting a consumer that holds entries would lose them for ever."""
    agent, look, seen = Agent(name), Look(bus, name), []

    @agent.on("task")
    async def handle(body: int) -> None:
        seen.append(body)

    await bus.publish(f"agent.{name}.task", 1)
    await look.inbox.join("hasty")
    await look.inbox.fetch("hasty", 1, 1 << 20)
    assert await look.inbox.leave("hasty") == 1
    assert await look.group_consumers() == {"hasty"}
    async with bus.serving(agent):
        await eventually(lambda: seen == [1], 15)

        async def gone() -> bool:
            return "hasty" not in await look.group_consumers()

        await eventually(gone)
    await look.check_balance()
