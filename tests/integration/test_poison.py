"""Messages that kill their owner, and what becomes of those beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from agentbus import Agent, AgentSettings, Bus, Context, RequestFailed
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


async def die_holding(look: Look, consumer: str, count: int, *, started: bool = False) -> list[Any]:
    """Do what a process does that takes messages and dies: join, fetch, and be taken over."""
    await look.inbox.join(consumer)
    taken = await look.inbox.fetch(consumer, count, 1 << 20)
    if started:
        await look.inbox.mark_started(consumer, taken[0])
    step = await look.inbox.reclaim(consumer, (await look.alive())[consumer])
    assert step is not None
    assert not step.more
    return taken


async def test_a_suspect_that_runs_long_keeps_no_other_work_waiting(bus: Bus, name: str) -> None:
    agent, look = Agent(name, concurrency=2), Look(bus, name)
    begun, go_on, done = [], asyncio.Event(), []

    @agent.on("long")
    async def long(body: int) -> None:
        begun.append(body)
        await go_on.wait()

    @agent.on("quick")
    async def quick(body: int) -> None:
        done.append(body)

    await bus.publish_many(f"agent.{name}.long", range(6))
    assert len(await die_holding(look, "first", 6)) == 6
    async with bus.serving(agent):
        await eventually(lambda: begun)
        await bus.publish_many(f"agent.{name}.quick", range(10))
        await eventually(lambda: len(done) == 10, 8)
        assert len(begun) == 1, "one suspect at a time"
        go_on.set()

        async def all_done() -> bool:
            return await look.count("processed") == 16 and await look.unsettled() == 0

        await eventually(all_done, 20)
    await look.check_balance()


async def test_a_death_charges_first_timers_and_the_started_suspect_only(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(3))
    assert len(await die_holding(look, "first", 3)) == 3
    assert len(await die_holding(look, "second", 3, started=True)) == 3
    await look.inbox.join("third")
    entries = await look.inbox.fetch("third", 3, 1 << 20)
    crashes = {
        json.loads(entry.message)["body"]["content"]: json.loads(entry.state)["crashes"] for entry in entries
    }
    assert crashes == {0: 2, 1: 1, 2: 1}


async def test_an_asker_is_told_when_its_request_has_killed_three_owners(bus: Bus, name: str) -> None:
    agent, look = Agent(name, settings=AgentSettings(lease=2.0)), Look(bus, name)

    @agent.on("question")
    async def handle(context: Context) -> None: ...

    asking = asyncio.create_task(bus.request(f"agent.{name}.question", None, timeout=30))

    async def waiting() -> bool:
        return await look.waiting() == 1

    await eventually(waiting)
    await die_holding(look, "first", 1)
    await die_holding(look, "second", 1, started=True)
    # The third one dies as a process does: without a word. A living instance takes over and tells.
    await look.inbox.join("third")
    (entry,) = await look.inbox.fetch("third", 1, 1 << 20)
    await look.inbox.mark_started("third", entry)
    async with bus.serving(agent):
        with pytest.raises(RequestFailed) as failure:
            async with asyncio.timeout(10):
                await asking
    assert failure.value.reason == "crashed"
    assert await look.dead_reasons() == ["crashed"]


async def test_eight_reclaimers_race_and_every_message_is_moved_once(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(500))
    await look.inbox.join("dead")
    await look.inbox.fetch("dead", 500, 1 << 30)
    beat = (await look.alive())["dead"]

    async def take_over() -> int:
        step, moved = await look.inbox.reclaim("dead", beat), 0
        while step is not None:
            moved += step.moved
            if not step.more:
                break
            step = await look.inbox.reclaim("dead", "")
        return moved

    moved = await asyncio.gather(*(take_over() for _ in range(8)))
    assert sum(moved) == 500
    assert await look.waiting() == 500
    assert await look.count("reclaimed") == 500
    assert await look.group_consumers() == set()
    await look.check_balance()


async def test_a_takeover_that_dies_half_way_is_finished_by_the_next(bus: Bus, name: str) -> None:
    agent, look, done = Agent(name, settings=AgentSettings(lease=2.0)), Look(bus, name), []

    @agent.on("task")
    async def handle(body: int) -> None:
        done.append(body)

    await bus.publish_many(f"agent.{name}.task", range(450))
    await look.inbox.join("dead")
    await look.inbox.fetch("dead", 450, 1 << 30)
    step = await look.inbox.reclaim("dead", (await look.alive())["dead"])
    assert step is not None
    assert step.more
    assert await look.pending("dead") > 0
    async with bus.serving(agent):
        await eventually(lambda: len(done) == 450, 25)
    assert sorted(done) == list(range(450))


async def test_a_death_is_charged_to_all_it_held_whoever_goes_on_with_the_takeover(
    bus: Bus, name: str
) -> None:
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(450))
    await look.inbox.join("dead")
    await look.inbox.fetch("dead", 450, 1 << 30)
    step = await look.inbox.reclaim("dead", (await look.alive())["dead"])
    while step is not None and step.more:
        # As a walk over strangers does, which has not seen the beat stand still.
        step = await look.inbox.reclaim("dead", "")
    returned = await bus.rooms.broker.execute("XRANGE", look.inbox.keys.sources[0], "-", "+")
    assert [json.loads(fields[3])["crashes"] for _, fields in returned] == [1] * 450
    assert await bus.rooms.broker.execute("EXISTS", look.inbox.keys.started) == 0
    await look.check_balance()


async def test_a_beat_that_moved_saves_its_owner_from_a_late_verdict(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", None)
    await look.inbox.join("alive")
    await look.inbox.fetch("alive", 1, 1 << 20)
    seen = (await look.alive())["alive"]
    call = look.inbox.beat("alive", 0, "serving")
    await bus.rooms.broker.execute(*call.by_text())
    assert await look.inbox.reclaim("alive", seen) is None
    assert await look.inbox.reclaim("alive", "") is None
    assert await look.pending("alive") == 1


async def test_nothing_a_fenced_consumer_says_is_accepted(bus: Bus, name: str) -> None:
    from agentbus import StaleDelivery

    look = Look(bus, name)
    inbox = look.inbox
    await bus.publish_many(f"agent.{name}.task", range(3))
    taken = await die_holding(look, "zombie", 3)
    # The zombie's read was parked: the server hands it work although its name is fenced.
    await bus.rooms.broker.execute(
        "XREADGROUP", "GROUP", "inbox", "zombie", "COUNT", 1, "STREAMS", look.keys.sources[0], ">"
    )
    (place,) = await inbox.held_ids("zombie")
    entry = await inbox.read_entry(*place)
    assert entry is not None
    ids = {entry.source: [entry.entry_id]}
    for attempt in (
        lambda: inbox.fetch("zombie", 1, 1 << 20),
        lambda: inbox.settle("zombie", "processed", ids),
        lambda: inbox.release("zombie", ids),
        lambda: inbox.bury("zombie", entry, "rejected", "", "", 0),
        lambda: inbox.postpone("zombie", entry, 10, "retried", "", "some-id"),
        lambda: inbox.mark_started("zombie", entry),
    ):
        with pytest.raises(StaleDelivery):
            await attempt()
    assert len(taken) == 3
    assert await look.pending("zombie") == 1
    assert await look.count("processed") == 0
    beat = await bus.rooms.broker.execute(*inbox.beat("zombie", 0, "serving").by_text())
    assert beat[0] == 0
    assert "zombie" not in await look.alive()


async def test_what_a_parked_read_of_a_fenced_name_was_given_is_taken_by_the_next_sweep(
    bus: Bus, name: str
) -> None:
    agent, look, done = Agent(name), Look(bus, name), []

    @agent.on("task")
    async def handle(context: Context) -> None:
        done.append((context.attempt, context.delivery.state.get("crashes", 0)))

    await look.inbox.make_groups()
    await bus.publish(f"agent.{name}.task", None)
    await bus.rooms.broker.execute(
        "XREADGROUP", "GROUP", "inbox", "ghost", "COUNT", 1, "STREAMS", look.keys.sources[3], ">"
    )
    async with bus.serving(agent):
        await eventually(lambda: done, 25)
    assert done == [(1, 0)], "nobody ran it, so nobody is charged"
