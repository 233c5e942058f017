"""Real worker processes, killed again and again under load: nothing lost, doubled or stuck."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest

from agentbus import Bus, BusSettings
from agentbus.broker.embedded import PrivateBroker
from tests.agents.look import Look
from tests.service import worker_process

pytestmark = pytest.mark.chaos

PREFIX = "kills"
ADDRESSES = 40
KILLS = 14


class Fleet:
    """Three worker processes; `kill` ends one with SIGKILL and starts another in its place."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._processes = [self._start() for _ in range(3)]

    def _start(self) -> subprocess.Popen[bytes]:
        return worker_process(self._url, PREFIX, "due", "reclaim")

    def kill(self) -> None:
        victim = self._processes.pop(0)
        assert victim.poll() is None, "a worker ended by itself"
        victim.kill()
        victim.wait()
        self._processes.append(self._start())

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


async def _publish(bus: Bus, chance: random.Random, ids: list[str], stop: asyncio.Event) -> None:
    """Publish delayed and immediate messages to every address until told to stop."""
    while not stop.is_set():
        round_of = [
            bus.publish(f"agent.a{n}.task", None, delay=chance.choice((0, 0, 0.01, 0.3, 1.5)))
            for n in range(ADDRESSES)
        ]
        ids += [stored.message_id for stored in await asyncio.gather(*round_of)]
        await asyncio.sleep(0.02)


async def _die_with_work(look: Look, chance: random.Random, stop: asyncio.Event) -> int:
    """Join, take some, and go without a word or without handing it back, again and again."""
    deaths = 0
    while not stop.is_set():
        consumer = f"c{deaths}"
        await look.inbox.join(consumer)
        entries = await look.inbox.fetch(consumer, chance.randrange(1, 20), 1 << 20)
        for entry in entries[:1]:
            await look.inbox.postpone(consumer, entry, 200, "deferred", "", _id_of(entry.message))
        if chance.random() < 0.7:
            await look.inbox.leave(consumer)
        deaths += 1
        await asyncio.sleep(0.2)
    return deaths


def _id_of(text: bytes) -> str:
    return str(json.loads(text)["message_id"])


async def _wait_until_all_wait(looks: list[Look], within: float) -> None:
    """Wait until nothing is due or held and no dead consumer is left."""
    deadline = time.monotonic() + within
    for look in looks:
        while await look.due() or await look.pending() or await look.group_consumers():
            assert time.monotonic() < deadline, f"{look.inbox.address} is not done"
            await asyncio.sleep(0.2)


async def _ids_waiting(looks: list[Look]) -> Counter[str]:
    found: Counter[str] = Counter()
    for look in looks:
        for stream in look.keys.sources:
            last = await look.last_delivered(stream)
            entries = await look.broker.execute("XRANGE", stream, f"({last}" if last else "-", "+")
            found.update(_id_of(fields[1]) for _, fields in entries)
        found.update(_id_of(letter["message"]) for letter in await look.dead())
    return found


@pytest.mark.timeout(90)
async def test_workers_killed_in_a_loop_lose_double_and_strand_nothing(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    chance, stop, ids = random.Random(seed), asyncio.Event(), list[str]()
    server = private_broker()
    async with Bus(server.url, agent="tester", settings=BusSettings(prefix=PREFIX)) as bus:
        looks = [Look(bus, f"a{n}") for n in range(ADDRESSES)]
        fleet = Fleet(server.url)
        try:
            load = [
                asyncio.create_task(_publish(bus, chance, ids, stop)),
                *[asyncio.create_task(_die_with_work(look, chance, stop)) for look in looks[:10]],
            ]
            for _ in range(KILLS):
                # At any instruction: some die while they import, most while they work.
                await asyncio.sleep(chance.uniform(0.1, 1.0))
                fleet.kill()
            stop.set()
            await asyncio.gather(*load)
            # A lease, the claims of the killed, and the walks of those that are left.
            await _wait_until_all_wait(looks, 45)
        finally:
            stop.set()
            fleet.close()
        found = await _ids_waiting(looks)
        assert [message for message, count in found.items() if count > 1] == []
        assert set(ids) - set(found) == set()
        assert len(found) == len(ids)
        reclaimed = [await look.count("reclaimed") for look in looks[:10]]
        print(f"{len(ids)} messages, reclaimed {reclaimed}")
        assert all(reclaimed)
        for look in looks:
            assert await look.group_consumers() == set()
            await look.check_balance()
