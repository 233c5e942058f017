"""The registry of agents, on a real broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from agentbus import Agent, AgentSettings, Bus, BusSettings, InvalidValue, NoSuchAgent, UnknownRecipients
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.registry import FORGET_AFTER_BEATS, Description, Registry, StoredInstance
from agentbus.fleet.directory import Directory
from agentbus.fleet.registration import Registration
from agentbus.testing import BrokerForTests
from tests.agents.process import fleet
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="looker", settings=BusSettings(prefix=unique("fleet"))) as opened:
        yield opened


def _agent(name: str, **options: object) -> Agent:
    agent = Agent(name, **options)  # type: ignore[arg-type]

    @agent.on()
    async def take(_body: object) -> None: ...

    return agent


async def test_a_served_agent_is_found_by_name_type_and_capability(bus: Bus) -> None:
    agents = (
        _agent("reviewer", type="review", capabilities=["review", "python", "review"]),
        _agent("tester", type="check", capabilities=["python"]),
    )
    async with bus.serving(*agents):
        assert [agent.name for agent in await bus.agents()] == ["reviewer", "tester"]
        assert [agent.name for agent in await bus.agents(type="check")] == ["tester"]
        assert [agent.name for agent in await bus.agents(capability="review")] == ["reviewer"]
        assert await bus.agents(type="review", capability="sing") == []
        found = await bus.agent("reviewer")
        assert (found.type, found.capabilities, found.online) == ("review", ("review", "python"), True)
        (instance,) = found.instances
        assert instance.pid == os.getpid()
        assert found.registered_at <= instance.since <= instance.last_seen <= found.last_seen
    gone = await bus.agent("agent.reviewer")
    assert (gone.online, gone.instances, gone.registered_at) == (False, (), found.registered_at)
    assert gone.last_seen >= found.last_seen


async def test_an_unknown_agent_is_an_error_that_names_close_ones(bus: Bus) -> None:
    async with bus.serving(_agent("reviewer")):
        with pytest.raises(NoSuchAgent, match=r"reviever; did you mean reviewer\?"):
            await bus.agent("reviever")
        directory = Directory(bus.rooms.registry)
        with pytest.raises(UnknownRecipients, match=r"zebra, reviwer \(did you mean reviewer\?\)") as caught:
            await directory.check_known(["zebra", "reviewer", "reviwer"])
        assert caught.value.unknown == {"zebra": (), "reviwer": ("reviewer",)}
        many = [f"reviewer-{number}" for number in range(1_000)]
        with pytest.raises(UnknownRecipients, match=r"mean reviewer\?\) and 990 more$") as caught:
            await directory.check_known(many)
        assert list(caught.value.unknown) == many
    await directory.forget("reviewer")
    assert await bus.agents() == []
    with pytest.raises(NoSuchAgent):
        await directory.forget("reviewer")
    for wrong in ("No Name", "a:b", ""):
        with pytest.raises(InvalidValue, match="name"):
            await bus.agent(wrong)
    with pytest.raises(InvalidValue, match="capability"):
        await bus.agents(capability="two words")


async def test_the_process_that_began_last_says_what_the_agent_is(bus: Bus) -> None:
    beat = AgentSettings(heartbeat=0.05)
    older = _agent("reviewer", type="old", capabilities=["old"], settings=beat)
    newer = _agent("reviewer", type="new", capabilities=["new"], settings=beat)
    async with bus.serving(older), bus.serving(newer):
        first = await bus.agent("reviewer")
        assert (first.type, first.capabilities, len(first.instances)) == ("new", ("new",), 2)
        assert bus.events.counts["agent_type_changed"] == 1

        async def all_have_beaten() -> bool:
            now = await bus.agent("reviewer")
            return all(
                after.last_seen > before.last_seen
                for before, after in zip(first.instances, now.instances, strict=True)
            )

        await eventually(all_have_beaten)
        assert (await bus.agent("reviewer")).type == "new"
        # Somebody who only pulls from the inbox does not know what the agent is.
        assert await bus.next("reviewer", timeout=0.01) is None
        pulled = await bus.agent("reviewer")
        assert (pulled.type, len(pulled.instances)) == ("new", 3)


async def test_a_process_that_died_is_silent_and_then_gone(
    broker: BrokerForTests, unique: Unique, tmp_path: Path
) -> None:
    name = unique("mortal")
    async with Bus(broker.url) as bus:
        with fleet(broker.url, tmp_path) as processes:
            dead = processes.start(name, settings={"heartbeat": 0.1})
            await eventually(lambda: _known(bus, name), 15.0)
            dead.kill()
            await eventually(lambda: _silent(bus, name))
        assert [each.pid for each in (await bus.agent(name)).instances] == [dead.pid]
        registry: Registry = bus.rooms.registry
        about, other = Description(name, "other", ()), StoredInstance("other", "here", 1, 60_000)

        async def pruned() -> bool:
            await registry.register(about, other, beat=True)
            found = await bus.agent(name)
            return [each.id for each in found.instances] == ["other"]

        await eventually(pruned)
        found = await bus.agent(name)
        assert found.last_seen - found.registered_at >= timedelta(seconds=0.1 * FORGET_AFTER_BEATS)
        assert found.type == name


async def _known(bus: Bus, name: str) -> bool:
    return name in [agent.name for agent in await bus.agents()]


async def _silent(bus: Bus, name: str) -> bool:
    return not (await bus.agent(name)).online


async def test_an_agent_is_listed_again_when_the_broker_has_lost_its_data(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    # With its next beat, which is a minute away, or as soon as it finds out.
    async with Bus(server.url) as bus, bus.serving(_agent("reviewer", type="review")):
        assert await _known(bus, "reviewer")
        await bus.rooms.broker.execute("FLUSHALL")
        await eventually(lambda: _known(bus, "reviewer"), 15.0)
        assert (await bus.agent("reviewer")).type == "review"


async def test_an_agent_that_begins_in_an_outage_is_listed_when_the_broker_is_back(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url) as bus:
        about = Description("reviewer", "review", ())
        registration = Registration(bus.rooms.registry, about, "60s", bus.events)
        server.kill()
        # It does not wait: a stop would have to wait with it.
        await asyncio.wait_for(registration.begin(), 5.0)
        running = asyncio.create_task(registration.run())
        server.start()
        await eventually(lambda: _listed(server.url, "reviewer"), 15.0)
        running.cancel()
        await registration.end()
        assert (await bus.agent("reviewer")).instances == ()


async def _listed(url: str, name: str) -> bool:
    async with Bus(url) as bus:
        return await _known(bus, name)


async def test_a_registry_that_cannot_be_written_is_an_event_and_the_agent_works_on(bus: Bus) -> None:
    await bus.rooms.broker.execute("SET", f"{bus.settings.prefix}:agent:reviewer", "not a hash")
    async with bus.serving(_agent("reviewer")):
        assert bus.events.counts["unregistered"] == 1
        await bus.publish("agent.reviewer.task", 1)
        inbox = await bus.inspect("reviewer")
        assert inbox is not None


def test_what_can_be_no_capability_or_heartbeat_is_refused() -> None:
    for wrong in (["two words"], ["Review"], [""]):
        with pytest.raises(InvalidValue, match="capabilities"):
            Agent("reviewer", capabilities=wrong)
    with pytest.raises(InvalidValue, match="must be a list"):
        Agent("reviewer", capabilities="review")


async def test_a_heartbeat_of_nothing_is_refused(bus: Bus) -> None:
    with pytest.raises(InvalidValue, match="heartbeat"):
        async with bus.serving(_agent("reviewer", settings=AgentSettings(heartbeat=0))):
            pass
