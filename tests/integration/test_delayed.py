"""Delayed messages and retries, without any worker process: the subscribers keep time themselves."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

from agentbus import Agent, AgentSettings, Bus, Context, Retry
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays

Unique = Callable[[str], str]


async def test_a_delay_of_50_ms_reaches_an_idle_pool_in_time(bus: Bus, unique: Unique) -> None:
    pool, arrivals = unique("pool"), []
    agents = [Agent(unique("member"), pools=[pool]) for _ in range(3)]
    for agent in agents:

        @agent.on("task")
        async def handle() -> None:
            arrivals.append(time.monotonic())

    late = []
    async with bus.serving(*agents):
        for number in range(25):
            begun = time.monotonic()
            await bus.publish(f"agent.{pool}.task", number, delay="50ms")
            await eventually(lambda number=number: len(arrivals) == number + 1, pause=0.002)
            late.append(arrivals[-1] - begun - 0.05)
    assert min(late) >= -0.002, "never early"
    assert statistics.median(late) <= 0.1
    assert max(late) <= 1.0


async def test_without_the_nudge_the_timer_finds_it_within_a_second(bus: Bus, unique: Unique) -> None:
    name, arrivals = unique("worker"), []
    agent = Agent(name)

    @agent.on("task")
    async def handle() -> None:
        arrivals.append(time.monotonic())

    look = Look(bus, name)
    async with bus.serving(agent):

        async def listening() -> bool:
            return b"cmd=subscribe" in await bus.rooms.broker.execute("CLIENT", "LIST")

        await eventually(listening)
        # Put there as a script would, but nobody is told.
        seconds, _ = await bus.rooms.broker.execute("TIME")
        due = int(seconds) * 1000 + 1000
        text = '{"message_id":"m","message_type":"task"}'
        await bus.rooms.broker.execute("HSET", look.keys.delayed, "m", text, "m:state", '{"lane":"high"}')
        await bus.rooms.broker.execute("ZADD", look.keys.due, due, "m")
        await eventually(lambda: arrivals, 4)


async def test_a_delayed_message_joins_its_lane_and_a_retry_goes_before_the_lanes(
    bus: Bus, unique: Unique
) -> None:
    name = unique("worker")
    order: list[str] = []
    agent = Agent(
        name,
        concurrency=1,
        retry=Retry(max_retries=1, retry_delay=0.01),
        # What was prefetched was in this process before the retry came due.
        settings=AgentSettings(prefetch=0),
    )

    @agent.on("task")
    async def handle(body: str, context: Context) -> None:
        order.append(body)
        if body == "fails" and context.attempt == 1:
            raise ValueError
        await asyncio.sleep(0.02)

    await bus.publish(f"agent.{name}.task", "fails")
    await bus.publish_many(f"agent.{name}.task", [f"backlog {n}" for n in range(60)])
    async with bus.serving(agent):
        await eventually(lambda: len(order) == 62)
    assert order.count("fails") == 2
    assert order.index("fails", 1) < 30
    await Look(bus, name).check_balance()


async def test_a_message_whose_body_was_deleted_by_hand_is_counted_and_not_tried_for_ever(
    bus: Bus, unique: Unique
) -> None:
    name = unique("worker")
    look = Look(bus, name)
    async with bus.serving(Agent(name)):
        stored = await bus.publish(f"agent.{name}.task", None, delay=0.3)
        await bus.rooms.broker.execute("HDEL", look.keys.delayed, stored.message_id)

        async def vanished() -> bool:
            return await look.count("vanished") == 1 and await look.due() == 0

        await eventually(vanished)
    await look.check_balance()


async def test_a_thousand_that_come_due_at_once_all_arrive_once(bus: Bus, unique: Unique) -> None:
    name, seen = unique("worker"), []
    agents = [Agent(name) for _ in range(3)]
    for agent in agents:

        @agent.on("task")
        async def handle(body: int) -> None:
            seen.append(body)

    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(1000), delay=0.3)
    async with bus.serving(*agents):

        async def done() -> bool:
            return await look.count("processed") == 1000 and await look.unsettled() == 0

        await eventually(done)
    assert sorted(seen) == list(range(1000))
    await look.check_balance()


async def test_a_delayed_message_waits_while_nobody_serves_and_is_not_lost(bus: Bus, unique: Unique) -> None:
    name, seen = unique("worker"), []
    agent = Agent(name)

    @agent.on("task")
    async def handle(body: int) -> None:
        seen.append(body)

    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", 1, delay=0.05)

    async def still_due() -> bool:
        return await look.due() == 1

    await stays(still_due, 0.2)
    async with bus.serving(agent):
        await eventually(lambda: seen == [1])
