"""The order in which messages are served."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentbus import Agent, Bus
from agentbus.message.policy import ALLOWANCE_MS, PRIORITIES, Priority
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


def envelope(content: Any) -> str:
    return json.dumps({"message_id": f"m-{content}", "message_type": "task", "body": {"content": content}})


async def add(look: Look, priority: Priority, content: Any, age_seconds: float) -> None:
    """Put a message into a lane as if it had been published that long ago."""
    stream = look.keys.sources[1 + PRIORITIES.index(priority)]
    born = round((time.time() - age_seconds) * 1000)
    await look.broker.execute("XADD", stream, f"{born}-*", "message", envelope(content))


async def fetched(look: Look, count: int, step: int = 1000) -> list[Any]:
    """What a consumer is given, in order."""
    contents: list[Any] = []
    while len(contents) < count:
        entries = await look.inbox.fetch("reader", min(step, count - len(contents)), 1 << 24)
        assert entries, contents
        contents += [json.loads(entry.message)["body"]["content"] for entry in entries]
    return contents


async def test_messages_of_one_moment_come_in_the_order_of_their_priorities(bus: Bus, name: str) -> None:
    look, numbers = Look(bus, name), list(range(50))
    random.shuffle(numbers)
    for number in numbers:
        priority = PRIORITIES[number % 5]
        await bus.publish(f"agent.{name}.task", [priority, number], priority=priority)
    await look.inbox.join("reader")
    order = await fetched(look, 50, step=7)
    assert [priority for priority, _ in order] == [each for each in PRIORITIES for _ in range(10)]


async def test_within_one_priority_and_without_retries_the_order_is_that_of_publishing(
    bus: Bus, name: str
) -> None:
    agent, seen = Agent(name, concurrency=1), []
    rng = random.Random(7)

    @agent.on("task")
    async def handle(body: list[Any]) -> None:
        seen.append(body)

    # Some wait already, some arrive while the agent fetches, and some while its read is parked.
    sent: dict[str, list[int]] = {priority: [] for priority in PRIORITIES}

    async def send(count: int, first: int) -> None:
        for number in range(first, first + count):
            priority = rng.choice(PRIORITIES)
            sent[priority].append(number)
            await bus.publish(f"agent.{name}.task", [priority, number], priority=priority)

    await send(300, 0)
    async with bus.serving(agent):
        await send(300, 300)
        for first in range(600, 640):
            await send(1, first)
            await eventually(lambda first=first: len(seen) == first + 1)
    for priority in PRIORITIES:
        assert [number for each, number in seen if each == priority] == sent[priority]


async def test_a_background_message_older_than_its_allowance_comes_before_a_flood_of_high_ones(
    bus: Bus, name: str
) -> None:
    look = Look(bus, name)
    await add(look, "background", "old", 301)
    await add(look, "background", "young", 120)
    await bus.publish_many(f"agent.{name}.task", [f"high {n}" for n in range(100)], priority="high")
    await look.inbox.sweep()
    await look.inbox.join("reader")
    order = await fetched(look, 102, step=10)
    assert order[0] == "old"
    assert order[-1] == "young"


@pytest.mark.parametrize("priority", ["normal", "low", "background"])
@pytest.mark.parametrize("of_age", [True, False])
async def test_each_priority_waits_its_allowance_and_no_longer(
    bus: Bus, name: str, priority: Priority, of_age: bool
) -> None:
    allowance = ALLOWANCE_MS[priority] / 1000
    look = Look(bus, name)
    await add(look, priority, "lower", allowance + (1 if of_age else -1))
    await bus.publish(f"agent.{name}.task", "high", priority="high")
    await look.inbox.sweep()
    await look.inbox.join("reader")
    assert await fetched(look, 2) == (["lower", "high"] if of_age else ["high", "lower"])


async def test_critical_ones_do_not_starve_the_rest_for_ever(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await add(look, "normal", "waits too long", 10 * 60 + 3)
    await bus.publish_many(f"agent.{name}.task", ["critical"] * 20, priority="critical")
    await look.inbox.sweep()
    await look.inbox.join("reader")
    assert await fetched(look, 1) == ["waits too long"]


async def test_only_the_part_of_a_lane_that_has_come_of_age_goes_first(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    for number in range(3):
        await add(look, "background", f"old {number}", 400 - number)
    for number in range(3):
        await add(look, "background", f"young {number}", 10 - number)
    await bus.publish_many(f"agent.{name}.task", [f"high {n}" for n in range(5)], priority="high")
    await look.inbox.sweep()
    await look.inbox.join("reader")
    order = await fetched(look, 11)
    assert [each.split()[0] for each in order] == ["old"] * 3 + ["high"] * 5 + ["young"] * 3


async def test_ids_that_run_ahead_of_the_clock_do_not_lose_their_turn(bus: Bus, name: str) -> None:
    """After the clock went back, new entries of an old lane carry ids from the hour that was."""
    look = Look(bus, name)
    await add(look, "high", "from the future", -3600)
    await bus.publish(f"agent.{name}.task", "normal")
    await look.inbox.sweep()
    await look.inbox.join("reader")
    assert await fetched(look, 2) == ["from the future", "normal"]


@pytest.mark.timeout(120)
async def test_what_was_reclaimed_is_served_before_a_backlog_of_a_hundred_thousand(
    bus: Bus, name: str
) -> None:
    look, seen = Look(bus, name), []
    await bus.publish_many(f"agent.{name}.task", ["held"] * 3)
    await look.inbox.join("dead")
    await look.inbox.fetch("dead", 3, 1 << 20)
    results = await bus.publish_many(f"agent.{name}.task", range(100_000))
    assert not any(isinstance(result, Exception) for result in results)
    await look.inbox.reclaim("dead", (await look.alive())["dead"])
    # A released one keeps its place likewise.
    await look.inbox.join("reader")
    assert await fetched(look, 3) == ["held"] * 3
    first = await look.inbox.fetch("reader", 1, 1 << 20)
    await look.inbox.release("reader", {first[0].source: [first[0].entry_id]})
    agent = Agent(name, concurrency=1)

    @agent.on("task")
    async def handle(body: Any) -> None:
        seen.append(body)

    async with bus.serving(agent):
        await eventually(lambda: len(seen) > 10)
    assert seen[:5] == [0, 1, 2, 3, 4]
