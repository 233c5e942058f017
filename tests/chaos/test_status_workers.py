"""Five workers, killed and started again: one status for each tick, and none missing while anybody lived."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from agentbus.broker.keys import channel_keys
from agentbus.broker.schedules import ScheduleStore
from agentbus.broker.worker_registry import WorkerRegistry
from agentbus.bus import Bus
from agentbus.message.codec import decode
from agentbus.settings import BusSettings
from agentbus.testing import BrokerForTests
from tests.publishing import wait_until

ROOT = Path(__file__).parents[2]
INTERVAL_MS = 3_000
WORKERS = 5


class Crew:
    """The worker processes."""

    def __init__(self, url: str, prefix: str) -> None:
        self._command = (url, prefix, str(INTERVAL_MS / 1000))
        self.processes: list[subprocess.Popen[bytes]] = []

    def hire(self) -> None:
        """Start one more."""
        command = [sys.executable, "-m", "tests.status_worker", *self._command]
        self.processes.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))

    def kill(self, number: int) -> None:
        """Kill one as a lost machine would."""
        process = self.processes.pop(number)
        process.kill()
        process.wait()

    def dismiss(self) -> None:
        """End all of them."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def until(check: Callable[[], Awaitable[bool]], within: float) -> None:
    await wait_until(check, "the workers got that far", within)


async def ticks(bus: Bus) -> list[int]:
    log = channel_keys(bus.settings.prefix, "system.bus").log
    entries = await bus.rooms.broker.execute("XRANGE", log, "-", "+")
    return [decode(fields[1]).metadata["tick_ms"] for _, fields in entries]


async def more_ticks(bus: Bus, count: int) -> bool:
    return len(await ticks(bus)) >= count


async def all_live(bus: Bus, count: int) -> bool:
    roll = await WorkerRegistry(bus.rooms.broker, bus.settings.prefix).roll()
    return sum(worker.seen_at > roll.server_ms - 2_000 for worker in roll.workers) >= count


@pytest.mark.chaos
async def test_five_workers_that_are_killed_publish_each_tick_once(
    broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    settings = BusSettings(prefix=unique("p"))
    chance = random.Random(5)
    async with Bus(broker.url, settings=settings) as bus:
        store = ScheduleStore(bus.rooms.broker, settings.prefix, 1_000_000)
        crew = Crew(broker.url, settings.prefix)
        try:
            for _ in range(WORKERS):
                crew.hire()
            await until(lambda: all_live(bus, WORKERS), within=30)
            await until(lambda: more_ticks(bus, 1), within=10)
            # Some are always there: kill one just before a tick and one just after it.
            for _ in range(2):
                seen = await ticks(bus)
                now = await store.server_ms()
                await asyncio.sleep((seen[-1] + INTERVAL_MS - now) / 1000 - 0.05)
                crew.kill(chance.randrange(len(crew.processes)))
                count = len(seen) + 1
                await until(partial(more_ticks, bus, count), within=10)
                crew.kill(chance.randrange(len(crew.processes)))
                crew.hire()
                crew.hire()
            together = await ticks(bus)
            state = await store.read("system.bus", "status")
        finally:
            crew.dismiss()
        assert state is not None
        assert all(tick % INTERVAL_MS == 0 for tick in together)
        gaps = [later - earlier for earlier, later in itertools.pairwise(together)]
        assert gaps == [INTERVAL_MS] * len(gaps), "a tick is doubled or missing"
        assert (state.state.missed, state.state.sent) == (0, len(together))


@pytest.mark.chaos
async def test_a_gap_is_as_long_as_nobody_lived(broker: BrokerForTests, unique: Callable[[str], str]) -> None:
    settings = BusSettings(prefix=unique("p"))
    async with Bus(broker.url, settings=settings) as bus:
        store = ScheduleStore(bus.rooms.broker, settings.prefix, 1_000_000)
        crew = Crew(broker.url, settings.prefix)
        try:
            crew.hire()
            crew.hire()
            await until(lambda: more_ticks(bus, 1), within=30)
            crew.kill(1)
            crew.kill(0)
            died = await store.server_ms()
            before = await ticks(bus)
            await until(lambda: passed(store, before[-1] + 2 * INTERVAL_MS + 2_500), within=20)
            crew.hire()
            await until(lambda: more_ticks(bus, len(before) + 1), within=30)
            found = await ticks(bus)
            state = await store.read("system.bus", "status")
        finally:
            crew.dismiss()
    assert state is not None
    assert len(set(found)) == len(found)
    skipped = (found[len(before)] - before[-1]) // INTERVAL_MS - 1
    assert skipped == state.state.missed >= 2
    assert found[len(before)] > died + INTERVAL_MS


async def passed(store: ScheduleStore, moment_ms: int) -> bool:
    return await store.server_ms() > moment_ms
