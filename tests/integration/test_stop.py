"""Graceful stop: nothing stranded, nothing spent, nobody left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import redis

from agentbus import Agent, AgentSettings, BrokerUnavailable, Bus
from agentbus.broker.embedded import PrivateBroker
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


async def nobody_left(look: Look) -> None:
    assert await look.alive() == {}
    assert await look.group_consumers() == set()
    assert await look.pending() == 0


async def test_stopping_an_idle_agent_takes_a_moment_not_the_length_of_its_parked_read(
    bus: Bus, name: str
) -> None:
    agent = Agent(name)
    begun = time.monotonic()
    for _ in range(20):
        async with bus.serving(agent):
            pass
    assert time.monotonic() - begun < 10
    await nobody_left(Look(bus, name))


async def test_two_hundred_stops_in_the_middle_of_traffic_strand_nothing(bus: Bus, name: str) -> None:
    """Each stop unblocks a parked read, sometimes before it parks and sometimes as a message arrives."""
    agent, look, seen = Agent(name, concurrency=2), Look(bus, name), []

    @agent.on("task")
    async def handle(body: int) -> None:
        seen.append(body)

    for number in range(200):
        async with bus.serving(agent):
            publishing = asyncio.create_task(bus.publish(f"agent.{name}.task", number))
            for _ in range(number % 40):
                await asyncio.sleep(0)
        await publishing
    await nobody_left(look)
    async with bus.serving(agent):

        async def all_done() -> bool:
            return await look.count("processed") == 200 and not await look.unsettled()

        await eventually(all_done)
    assert sorted(seen) == list(range(200))
    assert await look.count("reclaimed") == 0
    await look.check_balance()


async def test_cancelling_serve_drains_like_a_signal(bus: Bus, name: str) -> None:
    agent, look, begun, ended = Agent(name), Look(bus, name), asyncio.Event(), []

    @agent.on("task")
    async def handle() -> None:
        begun.set()
        await asyncio.sleep(0.3)
        ended.append(1)

    serving = asyncio.create_task(bus.serve(agent))
    await bus.publish(f"agent.{name}.task", None)
    await begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert ended == [1]
    await nobody_left(look)
    assert await look.count("processed") == 1


async def test_what_outlasts_the_drain_deadline_is_cancelled_and_handed_back(bus: Bus, name: str) -> None:
    agent = Agent(name, settings=AgentSettings(drain=0.2))
    look, begun, ends = Look(bus, name), asyncio.Event(), []

    @agent.on("task")
    async def handle() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ends.append("ended")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await begun.wait()
        stopped_at = time.monotonic()
    assert 0.15 < time.monotonic() - stopped_at < 3
    assert ends == ["ended"]
    await nobody_left(look)
    assert await look.count("released") == 1
    assert await look.waiting() == 1
    await look.check_balance()


async def test_what_has_not_begun_goes_back_at_once_though_every_runner_is_busy(bus: Bus, name: str) -> None:
    agent = Agent(name, concurrency=2, settings=AgentSettings(prefetch=50, start_within=60.0))
    look, go_on, begun = Look(bus, name), asyncio.Event(), []

    @agent.on("quick")
    async def quick() -> None: ...

    @agent.on("long")
    async def long() -> None:
        begun.append(1)
        await go_on.wait()

    serving = asyncio.create_task(bus.serve(agent, handle_signals=False))
    await bus.publish_many(f"agent.{name}.quick", [None] * 20)

    async def warm() -> bool:
        return await look.count("processed") == 20

    await eventually(warm)
    await bus.publish_many(f"agent.{name}.long", [None] * 2)
    await bus.publish_many(f"agent.{name}.quick", [None] * 40)
    await eventually(lambda: len(begun) == 2)
    serving.cancel()

    async def only_the_running() -> bool:
        return await look.pending() == 2 and await look.waiting() == 40

    await eventually(only_the_running, 2.0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await nobody_left(look)
    await look.check_balance()


async def test_an_unreachable_broker_does_not_keep_a_stop_waiting_for_ever(
    private_broker: Callable[..., object], name: str
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="tester") as bus:  # type: ignore[attr-defined]
        async with bus.serving(Agent(name, settings=AgentSettings(drain=1.0))):
            server.kill()  # type: ignore[attr-defined]
            stopped_at = time.monotonic()
        assert time.monotonic() - stopped_at < 10


async def test_a_start_that_is_given_up_leaves_nothing_running(
    private_broker: Callable[..., object], name: str
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="tester") as bus:  # type: ignore[attr-defined]
        server.kill()  # type: ignore[attr-defined]
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), bus.serving(Agent(name)):
                pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await bus.next(name)
        await eventually(lambda: not asyncio.all_tasks() - before)


async def test_a_stop_after_a_restart_of_the_server_does_not_wait_for_a_parked_read(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    seen: list[int] = []
    hold = asyncio.Event()
    agent = Agent("worker", concurrency=1)

    @agent.on("task")
    async def handle(body: int) -> None:
        seen.append(body)
        await hold.wait()

    async with Bus(server.url, agent="tester") as bus:
        serving = bus.serving(agent)
        await serving.__aenter__()
        await bus.publish("agent.worker.task", 1)
        await eventually(lambda: seen == [1])
        # While the handler runs nothing is read: the reader's link finds the new server by itself.
        server.kill()
        server.start()
        # Others come first, so that it does not have the same number again.
        for _ in range(50):
            with redis.Redis.from_url(server.url) as other:
                other.ping()
        # After a pause a link looks by itself whether it is still open, and nobody hears of an error.
        await asyncio.sleep(0.6)
        hold.set()
        look = Look(bus, "worker")

        async def processed() -> bool:
            try:
                return await look.count("processed") == 1
            except BrokerUnavailable:
                return False

        await eventually(processed)
        begun = time.monotonic()
        await serving.__aexit__(None, None, None)
        assert time.monotonic() - begun < 1.5, "it was not unblocked: that is the length of a parked read"
