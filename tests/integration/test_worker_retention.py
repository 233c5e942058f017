"""The worker that trims where nobody subscribes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Bus, BusSettings, RetentionSettings
from agentbus.broker import keys
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from workers import retention as retention_module
from workers.retention import Retention
from workers.role import Ground
from workers.settings import WorkerSettings
from workers.share import Share

Unique = Callable[[str], str]
ROOT = Path(__file__).parents[2]
#: Two hundred entries more than wanted may stay.
KEPT = RetentionSettings(messages=100, channel_messages=100)


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    settings = BusSettings(prefix=unique("p"))
    async with Bus(broker.url, agent="tester", settings=settings) as opened:
        yield opened
        found = await opened.rooms.broker.execute("KEYS", f"{settings.prefix}:*")
        await opened.rooms.broker.execute("UNLINK", *found)


def role_of(bus: Bus, kept: RetentionSettings = KEPT) -> Retention:
    return Retention(Ground(bus, WorkerSettings(retention=kept), Share("one")))


@asynccontextmanager
async def running(role: Retention) -> AsyncIterator[None]:
    task = asyncio.create_task(role.run())
    try:
        yield
    finally:
        role.ground.stopping.set()
        await task


async def end(bus: Bus, name: str, count: int) -> Look:
    """Leave a history behind, and nobody who serves the address."""
    look = Look(bus, name)
    await look.inbox.join("gone")
    await bus.publish_many(f"agent.{name}.task", range(count))
    left = count
    while left:
        entries = await look.inbox.fetch("gone", min(left, 1000), 1 << 24)
        chosen = {entries[0].source: [each.entry_id for each in entries]}
        left -= await look.inbox.settle("gone", "processed", chosen)
    await look.inbox.leave("gone")
    return look


async def is_trimmed(look: Look) -> bool:
    return (await look.lengths())["normal"] <= 300


async def test_history_goes_where_nobody_subscribes(bus: Bus) -> None:
    looks = [await end(bus, f"quiet{number}", 1000) for number in range(3)]
    log = keys.channel_keys(bus.settings.prefix, "channel.design").log
    await bus.publish_many("channel.design.note", range(1000))
    role = role_of(bus)
    async with running(role):
        for look in looks:
            await eventually(lambda look=look: is_trimmed(look))

        async def log_is_trimmed() -> bool:
            return int(await bus.rooms.broker.execute("XLEN", log)) <= 300

        await eventually(log_is_trimmed)
        await eventually(lambda: role.report.steps > 0)
    assert role.report.lag_ms is not None and role.report.lag_ms < 10_000
    for look in looks:
        await look.check_balance()


async def test_a_huge_history_keeps_no_other_address_from_its_turn(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "_MOST_STEPS", 2)
    huge = [await end(bus, f"huge{number}", 10_000) for number in range(2)]
    small = [await end(bus, f"small{number}", 500) for number in range(4)]
    role = role_of(bus)
    await role._pass()
    assert [await is_trimmed(look) for look in small] == [True] * 4
    assert [await is_trimmed(look) for look in huge] == [False] * 2
    for _ in range(4):
        await role._pass()
    assert [await is_trimmed(look) for look in huge] == [True] * 2


async def test_an_address_with_a_broken_key_is_reported_and_the_others_get_their_turn(bus: Bus) -> None:
    looks = [await end(bus, f"one{number}", 500) for number in range(4)]
    await bus.rooms.broker.execute("SET", looks[1].keys.dead, "somebody's text")
    role = role_of(bus)
    await role._pass()
    assert [await is_trimmed(look) for look in looks] == [True] * 4
    assert looks[1].keys.dead in role.report.last_error


async def test_where_nothing_happens_nothing_is_trimmed_again(bus: Bus) -> None:
    look = await end(bus, "quiet", 500)
    role = role_of(bus)
    await role._pass()
    assert await is_trimmed(look)
    place = role._places["agent.quiet"]
    await bus.rooms.broker.execute("SET", look.keys.ended, "a trim would stumble over this")
    place.look_at = 0.0
    await role._pass()
    assert role.report.last_error == ""
    assert place.rest == 10.0
    more = await end(bus, "quiet", 1)
    place.look_at = 0.0
    await role._pass()
    assert more.keys.ended in role.report.last_error


async def test_age_alone_makes_an_idle_address_worth_a_look(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = await end(bus, "quiet", 500)
    role = role_of(bus, RetentionSettings(age=0.3))
    await role._pass()
    assert not await is_trimmed(look)
    monkeypatch.setattr(retention_module, "_IDLE_TRIM_INTERVAL", 0.0)

    async def goes() -> bool:
        role._places["agent.quiet"].look_at = 0.0
        await role._pass()
        return (await look.lengths())["normal"] < 300

    await eventually(goes)


async def test_the_share_of_others_is_left_to_them(bus: Bus) -> None:
    looks = [await end(bus, f"one{number}", 500) for number in range(12)]
    roles = []
    for worker in ("a", "b"):
        share = Share(worker)
        share.update([("a", ["retention"]), ("b", ["retention"])])
        roles.append(Retention(Ground(bus, WorkerSettings(retention=KEPT), share)))
    await roles[0]._pass()
    half = [await is_trimmed(look) for look in looks]
    assert 0 < sum(half) < 12
    await roles[1]._pass()
    assert all([await is_trimmed(look) for look in looks])
    assert not roles[0]._places.keys() & roles[1]._places.keys()


async def test_waiting_messages_that_an_outsider_deleted_are_counted_and_told(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "_SECOND_LOOK", 0.0)
    look = await end(bus, "robbed", 10)
    stored = await bus.publish_many("agent.robbed.task", range(10))
    await bus.rooms.broker.execute("XTRIM", look.keys.sources[3], "MAXLEN", "=", 6)
    await bus.rooms.broker.execute("XDEL", look.keys.sources[3], stored[8].entry_id)
    role = role_of(bus)
    await role._pass()
    await role._pass()
    assert bus.events.counts["vanished"] == 1
    assert await look.count("vanished") == 5
    await look.check_balance()


async def test_work_that_a_hand_took_from_its_owner_is_counted_and_told_where_no_owner_lives(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XGROUP DELCONSUMER with pending entries: the group never hands them out again."""
    monkeypatch.setattr(retention_module, "_SECOND_LOOK", 0.0)
    look = Look(bus, "robbed")
    await bus.publish_many("agent.robbed.task", range(10))
    await look.inbox.join("gone")
    assert len(await look.inbox.fetch("gone", 4, 1 << 20)) == 4
    lane = look.keys.sources[3]
    assert await bus.rooms.broker.execute("XGROUP", "DELCONSUMER", lane, "inbox", "gone") == 4
    role = role_of(bus)
    await role._pass()
    assert await look.count("vanished") == 0, "an owner's audit has its time"
    await role._pass()
    assert (await look.count("vanished"), bus.events.counts["vanished"]) == (4, 1)
    await look.check_balance()


async def test_a_lane_that_takes_no_more_entries_does_not_stop_the_role(bus: Bus) -> None:
    look = await end(bus, "bricked", 1000)
    largest = "18446744073709551615-18446744073709551615"
    await bus.rooms.broker.execute("XADD", look.keys.sources[3], largest, "message", "{}")
    role = role_of(bus)
    await role._pass()
    assert role.report.last_error == ""
    assert await is_trimmed(look)


@pytest.mark.timeout(60)
async def test_the_process_trims_and_stops_when_asked(bus: Bus, broker: BrokerForTests) -> None:
    look = await end(bus, "quiet", 12_000)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", "retention", "--url", broker.url, "--prefix", bus.settings.prefix,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:

        async def trimmed() -> bool:
            return (await look.lengths())["normal"] <= 10_200

        await eventually(trimmed, 20)
        process.send_signal(signal.SIGTERM)
        _, said = await process.communicate()
        assert process.returncode == 0, said
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
