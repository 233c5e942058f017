"""Five worker processes with clocks that differ, killed and frozen all the time: each tick is sent once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agentbus import Bus, Schedule
from agentbus.broker import keys
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.wake import Wake

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
WORKERS, SKEWS = 5, (-2.0, -1.0, 0.0, 1.0, 2.0)
ADDRESSES = ("agent.one", "agent.two", "channel.three", "system.four")
SCHEDULES_EACH = 3
#: Ticks of every schedule until the run may end.
LEAST_TICKS = 8


class Stage:
    """Worker processes, replaced when they are killed."""

    def __init__(self, url: str, seed: str) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._living: list[subprocess.Popen[bytes]] = []
        self.kills = self.freezes = 0

    def start(self, skew: float) -> None:
        program = [sys.executable, "-m", "tests.chaos.skewed_workers", str(skew), "recurring"]
        self._living.append(
            subprocess.Popen(
                [*program, "--url", self._url, "--log-level", "error"], cwd=ROOT, stdin=subprocess.DEVNULL
            )
        )

    def end_all(self) -> None:
        for process in self._living:
            process.kill()
            process.wait()

    async def torment(self) -> None:
        """Kill one after the other at any instruction, or freeze it in the middle of what it does."""
        while True:
            await asyncio.sleep(self._random.uniform(0.2, 0.5))
            victim = self._random.choice(self._living)
            if self._random.random() < 0.3:
                self.freezes += 1
                victim.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.4)
                victim.send_signal(signal.SIGCONT)
                continue
            self.kills += 1
            victim.kill()
            victim.wait()
            self._living.remove(victim)
            self.start(self._random.choice(SKEWS))


async def _wake_all(bus: Bus) -> None:
    """Let every worker look at every address all the time: the claims, which only save work, save nothing."""
    ticking = Wake(bus.rooms.broker, keys.ticking(bus.settings.prefix))
    while True:
        await ticking.announce_all([(address, 0) for address in ADDRESSES])
        await asyncio.sleep(0.002)


@asynccontextmanager
async def _beside(*running: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in running:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _ticks(bus: Bus, schedule: Schedule) -> list[tuple[int, datetime, str]]:
    """Return number, time and message id of every message that a schedule has sent."""
    prefix, address = bus.settings.prefix, schedule.address
    inbox, channel = keys.inbox_keys(prefix, address), keys.channel_keys(prefix, address)
    stream = inbox.priority_lanes[2] if address.startswith("agent") else channel.log
    found = []
    for _, fields in await bus.rooms.broker.execute("XRANGE", stream, "-", "+"):
        message = json.loads(fields[1])
        number, time, schedule_id = message["body"]["content"]
        if schedule_id == schedule.id:
            found.append((number, datetime.fromisoformat(time), message["message_id"]))
    return found


@pytest.mark.timeout(120)
async def test_each_tick_is_sent_once_through_kills_freezes_and_clocks_that_differ(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    seed = secrets.token_hex(4)
    server = private_broker()
    stage = Stage(server.url, seed)
    async with Bus(server.url, agent="planner") as bus:
        for address in ADDRESSES:
            for _ in range(SCHEDULES_EACH):
                body = ["{{tick_number}}", "{{tick_time}}", "{{schedule_id}}"]
                await bus.schedules.add(f"{address}.task", body, "interval:1", misfire="all:1000")
        for skew in SKEWS:
            stage.start(skew)
        try:
            tasks = (asyncio.create_task(stage.torment()), asyncio.create_task(_wake_all(bus)))
            async with _beside(*tasks), asyncio.timeout(90):
                while min(schedule.sent for schedule in await bus.schedules.list()) < LEAST_TICKS:
                    await asyncio.sleep(0.1)
        finally:
            stage.end_all()
        print(f"seed {seed}: {stage.kills} kills, {stage.freezes} freezes")
        assert stage.kills >= 3
        for schedule in await bus.schedules.list():
            await _check(bus, schedule, seed)


async def _check(bus: Bus, schedule: Schedule, seed: str) -> None:
    found = await _ticks(bus, schedule)
    numbers = [number for number, _, _ in found]
    assert numbers == list(range(1, len(found) + 1)), f"seed {seed}: {schedule.id}"
    assert [time for _, time, _ in found] == [
        schedule.created_at + timedelta(seconds=number) for number in numbers
    ]
    assert len({message_id for _, _, message_id in found}) == len(found)
    assert (schedule.sent, schedule.missed) == (len(found), 0)
    assert schedule.next_send_at == schedule.created_at + timedelta(seconds=len(found) + 1)
