"""What workers do when clocks are wrong: the server's jumps, or those of the clients differ from it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Bus, BusSettings
from agentbus.broker.keys import inbox_keys
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.clock import ShiftedServer, Shim
from tests.service import worker_process, working
from workers.dead import Dead
from workers.due import Due
from workers.reclaim import Reclaim
from workers.recurring import Recurring

HOUR = 3600
ROLES = (Due, Reclaim, Dead, Recurring)


@asynccontextmanager
async def beating(bus: Bus, look: Look, consumer: str) -> AsyncIterator[None]:
    """Keep a consumer alive for the length of a block."""

    async def beat() -> None:
        while True:
            await bus.rooms.broker.execute(*look.inbox.beat(consumer, 0, "serving").by_text())
            await asyncio.sleep(0.1)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def _waiting(bus: Bus) -> int:
    return (await bus.inspect("a")).waiting


@pytest.mark.chaos
@pytest.mark.parametrize("away", [HOUR, -HOUR])
async def test_the_servers_clock_jumps_an_hour_and_back_under_all_roles(
    clock: ShiftedServer, away: int
) -> None:
    server, jump = clock
    async with Bus(server.url, agent="tester") as bus, working(bus, *ROLES, lease=1.0, sweep=0.5) as roles:
        look = Look(bus, "a")
        await look.inbox.join("living")
        async with beating(bus, look, "living"):
            await bus.schedules.add("agent.b.task", "tick", "interval:1", name="each")
            await bus.publish("agent.a.task", "held")
            assert len(await look.inbox.fetch("living", 1, 1 << 20)) == 1
            await eventually(lambda: _sent(bus, 1))
            jump(away)
            # The claims and ticks of this hour must hold nobody up in the next.
            await bus.publish("agent.a.task", "soon", delay="500ms")
            await eventually(lambda: _is(_waiting(bus), 1))
            jump(0)
            await bus.publish("agent.a.task", "later", delay="500ms")
            await eventually(lambda: _is(_waiting(bus), 2))
            assert await look.pending("living") == 1, "who beats keeps what it holds, whatever the time"
            await bus.schedules.add("agent.c.task", "tick", "interval:1", name="new")
            await eventually(lambda: _sent(bus, 1, "agent.c:new"))
        await eventually(lambda: _is(look.pending("living"), 0))
        assert all(role.report.last_error == "" for role in roles.values())
        await look.check_balance()
        ids = await _message_ids(bus)
        assert len(ids) == len(set(ids)) >= 1, "no tick twice"


async def _is(found: object, wanted: int) -> bool:
    return await found == wanted  # type: ignore[misc]


async def _sent(bus: Bus, count: int, schedule: str = "agent.b:each") -> bool:
    return (await bus.schedules.get(schedule)).sent >= count


async def _message_ids(bus: Bus) -> list[str]:
    """Return the ids of what the schedule has sent: they follow from its ticks."""
    lane = inbox_keys(bus.settings.prefix, "agent.b").priority_lanes[2]
    entries = await bus.rooms.broker.execute("XRANGE", lane, "-", "+")
    return [json.loads(fields[1])["message_id"] for _, fields in entries]


@pytest.mark.parametrize("skew", [300, -300])
async def test_workers_whose_clocks_are_minutes_off_are_in_time_and_take_from_nobody_who_lives(
    broker: BrokerForTests, unique: Callable[[str], str], tmp_path: Path, skew: int
) -> None:
    """Delays, ticks and leases go by the server's clock and by beats; a client's clock only labels."""
    shim, prefix = Shim(tmp_path), unique("skew")
    shim.jump(skew)
    async with Bus(broker.url, agent="tester", settings=BusSettings(prefix=prefix)) as bus:
        look = Look(bus, "a")
        await look.inbox.join("living")
        await bus.publish("agent.a.task", "held")
        assert len(await look.inbox.fetch("living", 1, 1 << 20)) == 1
        roles = [role.name for role in ROLES]
        workers = worker_process(broker.url, prefix, *roles, **shim.environment)
        try:
            async with beating(bus, look, "living"):
                begun = time.monotonic()
                added = await bus.schedules.add(
                    "agent.b.task", "tick", "interval:2", misfire="skip", grace="5s"
                )
                await bus.publish("agent.a.task", "soon", delay="1s")
                await eventually(lambda: _is(_waiting(bus), 1))
                assert time.monotonic() - begun >= 0.9
                await eventually(lambda: _sent(bus, 2, added.id))
                assert time.monotonic() - begun >= 3.9
                assert await look.pending("living") == 1
                assert (await bus.schedules.get(added.id)).missed == 0
            assert workers.poll() is None
        finally:
            workers.kill()
            workers.wait()
        await look.check_balance()
