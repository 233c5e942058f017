"""History is bounded; what is not ended is never part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agentbus import Agent, Bus, BusSettings, RetentionSettings
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]
WEEK_MS = 7 * 86_400_000
#: Whole nodes of a stream go, a hundred entries each.
NODES = 200


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


async def end(look: Look, count: int) -> None:
    """Take and settle so many."""
    left = count
    while left:
        entries = await look.inbox.fetch("reader", min(left, 500), 1 << 24)
        await look.inbox.settle(
            "reader", "processed", {entries[0].source: [each.entry_id for each in entries]}
        )
        left -= len(entries)


async def trim(look: Look, messages: int, age_ms: int = WEEK_MS, most_bytes: int = 1 << 30) -> None:
    more = True
    while more:
        _, more = await look.inbox.trim(messages, age_ms, most_bytes)


async def test_ended_messages_beyond_the_history_go(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await look.inbox.join("reader")
    await bus.publish_many(f"agent.{name}.task", range(3000))
    await end(look, 3000)
    await trim(look, 500)
    assert 500 <= (await look.lengths())["normal"] <= 500 + NODES


async def test_no_waiting_message_ever_goes(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await look.inbox.join("reader")
    await bus.publish_many(f"agent.{name}.task", range(3000))
    await end(look, 1000)
    await trim(look, 0, age_ms=0, most_bytes=1)
    assert await look.waiting() == 2000
    assert 2000 <= (await look.lengths())["normal"] <= 2000 + NODES
    await end(look, 2000)
    await look.check_balance()


async def test_one_that_is_held_for_long_stays_and_the_ended_ones_behind_it_go(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await look.inbox.join("reader")
    await look.inbox.join("slow")
    await bus.publish_many(f"agent.{name}.task", range(5000))
    await end(look, 100)
    (held,) = await look.inbox.fetch("slow", 1, 1 << 20)
    await end(look, 4899)
    for _ in range(20):
        await trim(look, 300)
    assert (await look.lengths())["normal"] <= 300 + 2 * NODES
    assert await look.inbox.read_entry(held.source, held.entry_id) is not None
    assert await look.inbox.settle("slow", "processed", {held.source: [held.entry_id]}) == 1
    await look.check_balance()


async def test_history_goes_by_age_and_by_bytes_too(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await look.inbox.join("reader")
    await bus.publish_many(f"agent.{name}.task", ["x" * 1000] * 2000)
    await end(look, 2000)
    await trim(look, 10_000, most_bytes=500_000)
    size = int(await look.broker.execute("MEMORY", "USAGE", look.keys.sources[3], "SAMPLES", 0))
    assert size < 900_000
    assert (await look.lengths())["normal"] > 100
    await asyncio.sleep(0.01)
    await trim(look, 10_000, age_ms=1)
    # Those of the last batch have the millisecond of the last delivered one.
    assert (await look.lengths())["normal"] <= 256 + NODES


async def test_outcomes_go_with_the_entries_they_speak_of(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await look.inbox.join("reader")
    for _ in range(20):
        await bus.publish_many(f"agent.{name}.task", range(200))
        for _ in range(20):
            await end(look, 10)
    before = int(await look.broker.execute("XLEN", look.keys.outcomes))
    assert before == 400
    await trim(look, 100)
    assert int(await look.broker.execute("XLEN", look.keys.outcomes)) < before / 2


async def test_subscribers_trim_what_they_serve(
    broker: BrokerForTests, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.receive.housekeeping.TRIM_INTERVAL", 0.5)
    settings = BusSettings(retention=RetentionSettings(messages=50))
    agent = Agent(name)

    @agent.on("task")
    async def handle() -> None: ...

    async with Bus(broker.url, agent="tester", settings=settings) as bus, bus.serving(agent):
        look = Look(bus, name)
        await bus.publish_many(f"agent.{name}.task", range(2000))

        async def trimmed() -> bool:
            return await look.count("processed") == 2000 and (await look.lengths())["normal"] <= 50 + NODES

        await eventually(trimmed, 15)
        await look.check_balance()
