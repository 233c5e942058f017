"""The role that publishes the status: on its ticks, once, and not when it should not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from agentbus import Bus, BusSettings, BusStatus, Policy
from agentbus.broker.keys import channel_keys
from agentbus.broker.schedules import ScheduleStore
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.schedules.schedule import schedule_of
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from workers.role import Ground
from workers.settings import WorkerSettings
from workers.share import Share
from workers.status import Status, grid_after

ADDRESS = "system.bus"


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Bus]:
    async with Bus(broker.url, settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


def role_of(bus: Bus, interval: float, *, share: Share | None = None) -> Status:
    return Status(Ground(bus, WorkerSettings(status_interval=interval), share or Share("w")))


@asynccontextmanager
async def running(role: Status) -> AsyncIterator[None]:
    task = asyncio.create_task(role.run())
    try:
        yield
    finally:
        role.ground.stopping.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def store_of(bus: Bus) -> ScheduleStore:
    return ScheduleStore(bus.rooms.broker, bus.settings.prefix, 1_000_000)


async def published(bus: Bus) -> list[tuple[int, Message]]:
    """Return (when it was added, message) of everything on the channel."""
    log = channel_keys(bus.settings.prefix, ADDRESS).log
    entries = await bus.rooms.broker.execute("XRANGE", log, "-", "+")
    return [(int(entry_id.partition(b"-")[0]), decode(fields[1])) for entry_id, fields in entries]


async def has(bus: Bus, count: int) -> bool:
    return len(await published(bus)) >= count


async def test_the_status_comes_on_its_ticks_and_is_shown_as_a_schedule(bus: Bus) -> None:
    await bus.publish("agent.reviewer.task", 1)
    async with running(role_of(bus, 1.0)):
        await eventually(lambda: has(bus, 2))
    found = await published(bus)
    ticks = [message.metadata["tick_ms"] for _, message in found]
    assert all(tick % 1000 == 0 for tick in ticks) and len(set(ticks)) == len(ticks)
    assert all(at >= tick for (at, _), tick in zip(found, ticks, strict=True))
    message = found[-1][1]
    assert (message.channel, message.message_type, message.from_agent) == (ADDRESS, "status", "workers")
    status = BusStatus.from_record(message.content)
    assert [each.address for each in status.addresses] == ["agent.reviewer"]
    assert status.total.accepted_rate is not None
    stored = await store_of(bus).read(ADDRESS, "status")
    assert stored is not None
    shown = schedule_of(stored)
    assert (shown.id, shown.schedule, shown.sent, shown.misfire) == (
        "system.bus:status", "interval:1", len(found), "skip",
    )  # fmt: skip


async def test_ticks_that_nobody_was_there_for_are_passed_over(bus: Bus) -> None:
    store = store_of(bus)
    now = await store.server_ms()
    role = role_of(bus, 1.0)
    old = grid_after(now, 1000) - 40_000
    await store.add(ADDRESS, "status", role._definition(old), old)
    async with running(role):
        await eventually(lambda: has(bus, 1))
    at, message = (await published(bus))[0]
    assert message.metadata["tick_ms"] >= now and at >= now
    stored = await store.read(ADDRESS, "status")
    # 39 to 41 of them, by where between two ticks it began.
    assert stored is not None and 39 <= stored.state.missed <= 42


async def test_a_paused_status_stays_paused_and_goes_on_with_its_ticks(bus: Bus) -> None:
    role = role_of(bus, 1.0)
    async with running(role):
        await eventually(lambda: has(bus, 1))
        assert await store_of(bus).pause(ADDRESS, "status") == "paused"
        before = len(await published(bus))
        steps = role.report.steps
        await eventually(lambda: role.report.steps > steps + 6)
        assert len(await published(bus)) == before
        stored = await store_of(bus).read(ADDRESS, "status")
        assert stored is not None
        upcoming = schedule_of(stored)
        assert int(upcoming.created_at.timestamp() * 1000) % 1000 == 0


async def test_a_full_log_is_reported_and_the_next_tick_tried_again(bus: Bus) -> None:
    await bus.declare(ADDRESS, Policy(limit=1))
    await bus.publish("system.bus.note", "it is full")
    role = role_of(bus, 1.0)
    async with running(role):
        await eventually(lambda: "its log is full" in role.report.last_error)
        assert len(await published(bus)) == 1
        await bus.rooms.broker.execute("DEL", channel_keys(bus.settings.prefix, ADDRESS).policy)
        await eventually(lambda: has(bus, 2))


async def test_a_worker_whose_share_it_is_not_steps_in_only_when_the_tick_is_overdue(bus: Bus) -> None:
    share = Share("w")
    others = (f"other{number}" for number in range(100))
    for other in others:
        share.update([("w", ("status",)), (other, ("status",))])
        if not share.mine("status", ADDRESS):
            break
    async with running(role_of(bus, 3.0, share=share)):
        await eventually(lambda: has(bus, 1))
    at, message = (await published(bus))[0]
    # 2 of 15 parts of the interval; the share is that of a worker that never comes.
    assert at - message.metadata["tick_ms"] >= 400


async def test_an_emptied_server_gets_its_status_again(bus: Bus) -> None:
    async with running(role_of(bus, 1.0)):
        await eventually(lambda: has(bus, 1))
        keys = channel_keys(bus.settings.prefix, ADDRESS)
        await bus.rooms.broker.execute("DEL", keys.schedules, keys.ticks, keys.log, keys.ledger)
        await eventually(lambda: has(bus, 1))
