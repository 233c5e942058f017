"""Five workers announce dead letters while they are killed and others retry them: each exactly once."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from agentbus import Bus, BusSettings
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.keys import channel_keys
from agentbus.broker.notices import CHANNEL
from agentbus.message.codec import decode
from tests.letters import make_dead
from tests.service import worker_process

pytestmark = pytest.mark.chaos

WORKERS, KILLS, ROUNDS = 5, 6, 12


async def announced(bus: Bus) -> list[str]:
    log = channel_keys(bus.settings.prefix, CHANNEL).log
    entries = await bus.rooms.broker.execute("XRANGE", log, "-", "+")
    return [decode(flat[1]).content["dlq_id"] for _, flat in entries]


async def until(check: Callable[[], Awaitable[object]], within: float) -> None:
    async with asyncio.timeout(within):
        while not await check():
            await asyncio.sleep(0.02)


async def make_letters(bus: Bus) -> list[str]:
    """Dead letters at several addresses; some leave at once, before or while they are announced."""
    ids: list[str] = []
    for turn in range(ROUNDS):
        for name in ("a", "b", "c"):
            made = await make_dead(bus, name, *range(20))
            ids += made
            await bus.dead_letters.drop(made[0])
            await bus.dead_letters.resolve(made[1], "by hand")
        await asyncio.sleep(0.2 + 0.1 * (turn % 3))
    return ids


async def test_five_workers_that_are_killed_announce_each_dead_letter_exactly_once(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server, dice = private_broker(), random.Random(71)
    processes = [worker_process(server.url, "p", "dead") for _ in range(WORKERS)]
    try:
        async with Bus(server.url, agent="tester", settings=BusSettings(prefix="p")) as bus:
            making = asyncio.create_task(make_letters(bus))
            for _ in range(KILLS):
                await until(lambda: announced(bus), 15.0)
                await asyncio.sleep(dice.uniform(0.05, 0.5))
                victim = dice.randrange(WORKERS)
                processes[victim].send_signal(signal.SIGKILL)
                processes[victim].wait()
                processes[victim] = worker_process(server.url, "p", "dead")
            ids = await making

            async def complete() -> bool:
                return set(await announced(bus)) == set(ids)

            await until(complete, 20.0)
            assert [id for id, times in Counter(await announced(bus)).items() if times != 1] == []
            for name in ("a", "b", "c"):
                assert (await bus.inspect(name)).ledger.closes
    finally:
        for process in processes:
            process.kill()
            process.wait()
