"""Who is dead and who is not, when it is the server or its clock that misbehaves."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis

from agentbus import Agent, AgentSettings, Bus, BusSettings, Context
from agentbus.broker.embedded import PrivateBroker
from agentbus.errors import BrokerUnavailable
from agentbus.testing import skip_or_fail
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays

pytestmark = pytest.mark.chaos

LEASE_SECONDS = 2.0
NAME = "worker"


class Fleet:
    """A hundred instances of one agent over ten buses, ten heartbeat threads and ten connections."""

    def __init__(self) -> None:
        self.buses: list[Bus] = []
        self.begun: Counter[int] = Counter()
        self.ended: list[int] = []
        self.go_on = asyncio.Event()

    def agent(self) -> Agent:
        agent = Agent(NAME, concurrency=1, settings=AgentSettings(lease=LEASE_SECONDS))

        @agent.on("task")
        async def handle(body: int) -> None:
            self.begun[body] += 1
            await self.go_on.wait()
            self.ended.append(body)

        return agent

    @property
    def events(self) -> Counter[str]:
        return sum((bus.events.counts for bus in self.buses), Counter())


@asynccontextmanager
async def fleet(url: str, buses: int = 10, each: int = 10) -> AsyncIterator[Fleet]:
    made = Fleet()
    async with AsyncExitStack() as stack:
        for number in range(buses):
            bus = Bus(url, agent=f"fleet-{number}", settings=BusSettings(command_timeout=2.0))
            made.buses.append(await stack.enter_async_context(bus))
            await stack.enter_async_context(bus.serving(*(made.agent() for _ in range(each))))
        try:
            yield made
        finally:
            # A test that failed need not wait for its handlers.
            made.go_on.set()


async def full(server: PrivateBroker, bus: Bus, seconds: float) -> None:
    await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(seconds)
    await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 0)


async def writes_refused(server: PrivateBroker, bus: Bus, seconds: float) -> None:
    """No replica: reads are answered, every write is not, so no beat moves although all live."""
    await bus.rooms.broker.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    await asyncio.sleep(seconds)
    await bus.rooms.broker.execute("CONFIG", "SET", "min-replicas-to-write", 0)


async def frozen(server: PrivateBroker, bus: Bus, seconds: float) -> None:
    server.pause()
    await asyncio.sleep(seconds)
    server.resume()


async def busy(server: PrivateBroker, bus: Bus, seconds: float) -> None:
    """One command that takes long: unlike a frozen server, this one answers all that came meanwhile."""

    def sleep() -> None:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("DEBUG", "SLEEP", seconds)

    await asyncio.to_thread(sleep)


async def restarted(server: PrivateBroker, bus: Bus, seconds: float) -> None:
    server.kill()
    await asyncio.sleep(seconds)
    server.start()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("trouble", [full, writes_refused, frozen, busy, restarted])
async def test_trouble_of_the_server_for_longer_than_a_lease_makes_nobody_dead(
    private_broker: Callable[..., PrivateBroker], trouble: Callable[..., Any]
) -> None:
    server = private_broker(config={"enable-debug-command": "local"})
    async with Bus(server.url, agent="tester") as bus, fleet(server.url) as agents:
        look = Look(bus, NAME)
        await bus.publish_many(f"agent.{NAME}.task", range(100))
        await eventually(lambda: len(agents.begun) == 100)
        before = await look.alive()
        await trouble(server, bus, 2.5 * LEASE_SECONDS)

        async def all_beat_again() -> bool:
            try:
                now = await look.alive()
            except BrokerUnavailable:  # this bus too has links that the restart cut
                return False
            assert now.keys() == before.keys(), "somebody was declared dead"
            return all(int(now[each].split()[0]) > int(beat.split()[0]) for each, beat in before.items())

        await eventually(all_beat_again, 15)
        # A verdict takes a lease from the first sound look.
        none_reclaimed = _counter_is(look, "reclaimed", 0)
        await stays(none_reclaimed, LEASE_SECONDS + 1.0)
        agents.go_on.set()
        await eventually(_counter_is(look, "processed", 100), 15)
        assert agents.events["fenced"] == 0
        assert set(agents.begun.values()) == {1}
        await look.check_balance()


def _counter_is(look: Look, name: str, count: int) -> Callable[[], Any]:
    async def check() -> bool:
        return await look.count(name) == count

    return check


async def test_a_full_server_is_joined_and_drained(private_broker: Callable[..., PrivateBroker]) -> None:
    server = private_broker()
    agent, runs = Agent(NAME, settings=AgentSettings(lease=LEASE_SECONDS)), Counter[str]()

    @agent.on()
    async def handle(context: Context) -> None:
        kind = context.message.message_type
        runs[kind] += 1
        if kind == "fails" and context.attempt == 1:
            await context.delivery.retry(0.01)
        if kind == "deferred" and runs[kind] == 1:
            await context.delivery.defer(0.01)
        if kind == "released" and runs[kind] == 1:
            await context.delivery.release()
        if kind == "rejected":
            await context.delivery.reject()

    async with Bus(server.url, agent="tester") as bus:
        look = Look(bus, NAME)
        for kind in ("plain", "fails", "deferred", "released", "rejected"):
            await bus.publish(f"agent.{NAME}.{kind}", None)
        await bus.publish(f"agent.{NAME}.plain", None, delay=0.2)
        await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 1)
        async with bus.serving(agent):

            async def drained() -> bool:
                return await look.count("processed") == 5 and await look.unsettled() == 0

            await eventually(drained)
        assert await look.dead_reasons() == ["rejected"]
        assert await look.alive() == {}
        await look.check_balance()


async def _server_seconds(bus: Bus) -> int:
    return int((await bus.rooms.broker.execute("TIME"))[0])


@pytest.mark.parametrize("jump_seconds", [3600, -3600])
async def test_a_clock_that_jumps_an_hour_neither_kills_the_living_nor_saves_the_dead(
    clock: tuple[PrivateBroker, Callable[[int], None]], jump_seconds: int
) -> None:
    server, jump = clock
    async with Bus(server.url, agent="tester") as bus:
        look = Look(bus, NAME)
        await bus.publish(f"agent.{NAME}.task", 2)
        await look.inbox.join("dead")
        assert len(await look.inbox.fetch("dead", 1, 1 << 20)) == 1
        async with fleet(server.url, buses=1, each=1) as agents:
            await bus.publish(f"agent.{NAME}.task", 1)
            await eventually(lambda: agents.begun == {1: 1})
            # Somebody has seen the clock as it was.
            await eventually(_has_beaten(look))
            await _jump_and_recover(bus, server, agents, jump, jump_seconds)


def _has_beaten(look: Look) -> Callable[[], Any]:
    async def beaten() -> bool:
        beats = {name: beat for name, beat in (await look.alive()).items() if name != "dead"}
        return bool(beats) and all(int(beat.split()[0]) > 0 for beat in beats.values())

    return beaten


async def _jump_and_recover(
    bus: Bus, server: PrivateBroker, agents: Fleet, jump: Callable[[int], None], jump_seconds: int
) -> None:
    look = Look(bus, NAME)
    before = await _server_seconds(bus)
    jump(jump_seconds)
    if abs(await _server_seconds(bus) - before - jump_seconds) > 60:
        skip_or_fail(f"{server.binary} does not take its clock from the C library.", os.environ)
    # The dead one has not beaten since before the jump, the living one is in the middle of its work.
    await eventually(_counter_is(look, "reclaimed", 1), 10)
    agents.go_on.set()
    await eventually(_counter_is(look, "processed", 2), 10)
    assert agents.events["fenced"] == 0
    assert agents.begun == {1: 1, 2: 1}
    # What is delayed followed the clock, and somebody is told so.
    await eventually(lambda: agents.events["clock_jump"] == 1)
    # And back: nothing that came from the other hour is stuck.
    jump(0)
    await bus.publish(f"agent.{NAME}.task", 3)
    await eventually(lambda: 3 in agents.ended)
    await look.check_balance()
