"""The role `recurring`: each tick once, however many run, and what becomes of ticks that nobody sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentbus import Bus, BusSettings, Policy
from agentbus.broker import keys
from agentbus.broker.schedules import KEEP_ENDED_MS, ScheduleStore
from agentbus.schedules.definition import Definition
from agentbus.schedules.schedule import split_id
from agentbus.testing import BrokerForTests
from workers.recurring import Recurring
from workers.role import Ground
from workers.settings import WorkerSettings
from workers.share import Share

Unique = Callable[[str], str]
MINUTE = 60_000


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("recur"))) as opened:
        yield opened


@asynccontextmanager
async def recurring(bus: Bus, count: int = 1) -> AsyncIterator[list[Recurring]]:
    """Run schedulers for the length of a block."""
    roles = [Recurring(Ground(bus, WorkerSettings(), Share(f"w{number}"))) for number in range(count)]
    running = [asyncio.create_task(role.run()) for role in roles]
    try:
        yield roles
    finally:
        for role in roles:
            role.ground.stopping.set()
        await asyncio.gather(*running)


async def contents(bus: Bus, address: str, lane: str = "normal") -> list[Any]:
    inbox, channel = (
        keys.inbox_keys(bus.settings.prefix, address),
        keys.channel_keys(bus.settings.prefix, address),
    )
    stream = channel.log if not address.startswith("agent") else inbox.sources[keys.SOURCES.index(lane)]
    entries = await bus.rooms.broker.execute("XRANGE", stream, "-", "+")
    return [json.loads(fields[1])["body"]["content"] for _, fields in entries]


async def until(check: Callable[[], Any], within: float = 15.0) -> Any:
    async with asyncio.timeout(within):
        while not (found := await check()):
            await asyncio.sleep(0.02)
    return found


async def backdate(bus: Bus, schedule_id: str, minutes: float) -> int:
    """Make a schedule as old as if it had been added ``minutes`` ago and never ticked; returns since when."""
    address, name = split_id(schedule_id)
    store = ScheduleStore(bus.rooms.broker, bus.settings.prefix, 1_000_000)
    stored = await store.read(address, name)
    assert stored is not None
    definition = Definition.from_json(stored.definition)
    created_at = definition.created_at - round(minutes * MINUTE)
    definition = replace(definition, created_at=created_at)
    await store.cancel(address, name)
    first = definition.spec().next_after(created_at)
    assert first is not None
    await store.add(address, name, definition.to_json(), first)
    return created_at


async def test_five_schedulers_send_each_tick_once_to_inboxes_and_channels(bus: Bus) -> None:
    addresses = ("agent.ticked", "channel.ticked", "system.ticked", "project.ticked")
    for address in addresses:
        await bus.schedules.add(f"{address}.task", ["{{tick_number}}", "{{tick_time}}"], "interval:1")
    async with recurring(bus, 5):
        for address in addresses:
            await until(lambda address=address: _has(bus, address, 3))
    for schedule in await bus.schedules.list():
        found = await contents(bus, schedule.address)
        expected = [schedule.created_at + timedelta(seconds=number) for number in range(1, len(found) + 1)]
        assert [number for number, _ in found] == list(range(1, len(found) + 1))
        assert [datetime.fromisoformat(time) for _, time in found] == expected
        assert (schedule.sent, schedule.missed) == (len(found), 0)
    assert (await bus.inspect("ticked")).ledger.closes


async def _has(bus: Bus, address: str, least: int) -> bool:
    return len(await contents(bus, address)) >= least


async def test_a_single_time_is_sent_once_and_the_schedule_has_ended(bus: Bus) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=500)
    added = await bus.schedules.add("agent.once.task", "{{schedule_id}}", f"at:{soon.isoformat()}")
    async with recurring(bus):
        await until(lambda: _has(bus, "agent.once", 1))
        ended = await bus.schedules.get(added.id)
    assert (ended.state, ended.sent, ended.next_send_at) == ("ended", 1, None)
    assert ended.last_sent_at is not None and ended.last_sent_at >= soon - timedelta(milliseconds=2)
    assert await contents(bus, "agent.once") == [added.id]


@pytest.mark.parametrize(
    ("misfire", "numbers", "missed"),
    [("skip", [], 10), ("once", [10], 9), ("all:4", [7, 8, 9, 10], 6), ("all:50", list(range(1, 11)), 0)],
)
async def test_after_a_time_without_schedulers_the_policy_decides(
    bus: Bus, misfire: str, numbers: list[int], missed: int
) -> None:
    added = await bus.schedules.add("agent.late.task", "{{tick_number}}", "interval:3600", misfire=misfire)
    created_at = await backdate(bus, added.id, minutes=10 * 60 + 30)
    async with recurring(bus, 2):
        await until(lambda: _advanced(bus, added.id, created_at + 11 * 60 * MINUTE))
    schedule = await bus.schedules.get(added.id)
    assert await contents(bus, "agent.late") == numbers
    assert (schedule.sent, schedule.missed) == (len(numbers), missed)


async def _advanced(bus: Bus, schedule_id: str, to_ms: int) -> bool:
    found = (await bus.schedules.get(schedule_id)).next_send_at
    return found is not None and round(found.timestamp() * 1000) == to_ms


async def test_two_weeks_of_missed_minutes_are_one_message(bus: Bus) -> None:
    added = await bus.schedules.add("agent.weeks.task", "{{tick_number}}", "interval:60", grace="50s")
    await backdate(bus, added.id, minutes=60 * 24 * 14)
    async with recurring(bus):
        await until(lambda: _has(bus, "agent.weeks", 1))
    schedule = await bus.schedules.get(added.id)
    number = (await contents(bus, "agent.weeks"))[-1]
    assert schedule.sent + schedule.missed == number >= 60 * 24 * 14 - 1
    assert schedule.sent <= 2


async def test_a_full_inbox_keeps_the_tick_until_there_is_room(bus: Bus) -> None:
    await bus.declare("agent.full", Policy(limit=1))
    await bus.publish("agent.full.task", "in the way")
    await bus.schedules.add("agent.full.task", "{{tick_number}}", "interval:1", grace="5m")
    async with recurring(bus) as (role,):
        await until(lambda: _is_noted(role, "agent.full takes no more messages"))
        assert await contents(bus, "agent.full") == ["in the way"]
        policy = keys.inbox_keys(bus.settings.prefix, "agent.full").policy
        await bus.rooms.broker.execute("HSET", policy, "limit", 1000)
        await until(lambda: _has(bus, "agent.full", 3))
    assert (await contents(bus, "agent.full"))[:3] == ["in the way", 1, 2]


async def _is_noted(role: Recurring, text: str) -> bool:
    return text in role.report.last_error


async def test_what_nobody_announced_is_found_by_the_sweep(bus: Bus) -> None:
    await bus.schedules.add("agent.swept.task", 1, "interval:1")
    await bus.rooms.broker.execute("DEL", keys.ticking(bus.settings.prefix))
    async with recurring(bus):
        await until(lambda: _has(bus, "agent.swept", 1))


async def test_one_that_cannot_be_read_does_not_keep_others_from_ticking(bus: Bus) -> None:
    store = ScheduleStore(bus.rooms.broker, bus.settings.prefix, 1_000_000)
    await store.add("agent.mixed", "broken", b"nonsense", 1_000)
    await bus.rooms.broker.execute("SET", keys.inbox_keys(bus.settings.prefix, "agent.wrong").ticks, "text")
    await bus.rooms.broker.execute("SADD", keys.addresses(bus.settings.prefix), "agent.wrong", "no address")
    ticking = keys.ticking(bus.settings.prefix)
    await bus.rooms.broker.execute("ZADD", ticking, 1, "agent.wrong", 1, "no address", 1, "agent.mixed")
    await bus.schedules.add("agent.mixed.task", "{{tick_number}}", "interval:1")
    async with recurring(bus) as (role,):
        await until(lambda: _has(bus, "agent.mixed", 2))
        assert role.report.last_error
    assert (await contents(bus, "agent.mixed"))[:2] == [1, 2]
    assert await bus.rooms.broker.execute("ZSCORE", ticking, "no address") is None


async def test_many_that_cannot_tick_do_not_keep_one_from_ticking_that_can(bus: Bus) -> None:
    store = ScheduleStore(bus.rooms.broker, bus.settings.prefix, 1_000_000)
    for number in range(150):
        await store.add("agent.crowd", f"broken-{number}", b"nonsense", 1_000)
    await bus.schedules.add("agent.crowd.task", "{{tick_number}}", "interval:1")
    async with recurring(bus) as (role,):
        await until(lambda: _has(bus, "agent.crowd", 2))
        steps = role.report.steps
    assert (await contents(bus, "agent.crowd"))[:2] == [1, 2]
    assert steps < 60, "it waits between its looks"


async def test_an_ended_schedule_goes_when_its_day_is_over(bus: Bus) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=200)
    added = await bus.schedules.add("agent.gone.task", 1, f"at:{soon.isoformat()}")
    async with recurring(bus):
        await until(lambda: _has(bus, "agent.gone", 1))
        found = keys.inbox_keys(bus.settings.prefix, "agent.gone")
        score = float(await bus.rooms.broker.execute("ZSCORE", found.ticks, added.id.rpartition(":")[2]))
        assert score >= soon.timestamp() * 1000 + KEEP_ENDED_MS - 1_000
        await bus.rooms.broker.execute("ZADD", found.ticks, 1, added.id.rpartition(":")[2])
        await bus.rooms.broker.execute("ZADD", keys.ticking(bus.settings.prefix), 1, "agent.gone")
        await until(lambda: _is_gone(bus, found.schedules))
        assert await bus.rooms.broker.execute("EXISTS", found.ticks) == 0
    assert await contents(bus, "agent.gone") == [1]


async def _is_gone(bus: Bus, key: str) -> bool:
    return await bus.rooms.broker.execute("EXISTS", key) == 0


async def test_a_tick_is_handled_like_any_other_message(bus: Bus) -> None:
    await bus.schedules.add(
        "agent.worker.task", {"n": "{{tick_number}}"}, "interval:1", priority="high", correlation_id="c-1"
    )
    async with recurring(bus), asyncio.timeout(15):
        async for delivery in bus.inbox("worker"):
            async with delivery:
                message = delivery.message
            break
    assert (message.content, message.priority, message.from_agent) == ({"n": 1}, "high", "planner")
    assert message.correlation_id == "c-1"


async def test_a_tick_is_copied_to_those_who_are_bound_to_its_topic(bus: Bus) -> None:
    await bus.rooms.bindings.bind("observer", "channel.clock.*")
    async with recurring(bus, 3):
        await bus.schedules.add("channel.clock.tick", "{{tick_number}}", "interval:1")
        await until(lambda: _as_many_copies(bus))


async def _as_many_copies(bus: Bus) -> bool:
    sent, copied = await contents(bus, "channel.clock"), await contents(bus, "agent.observer")
    assert len(copied) <= len(sent)
    return copied[:1] == sent[:1] != []
