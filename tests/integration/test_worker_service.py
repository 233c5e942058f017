"""The life of a worker process: start, run, drain, stop, and what ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agentbus import Bus, BusSettings
from agentbus.broker.archiving import ArchiveSwitch
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.worker_registry import WorkerRegistry, WorkerState
from agentbus.errors import BrokerUnavailable, ConfigurationError, WrongKeyType
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.service import working
from workers.role import Ground, Report, Role
from workers.roles import ROLES
from workers.service import RoleEnded, Service
from workers.settings import WorkerSettings
from workers.share import Share

Unique = Callable[[str], str]
FAST = WorkerSettings(beat=0.05, drain=0.3)


class Idle(Role):
    """Does nothing until it is told to stop, and notes what happens to it."""

    name, summary = "idle", "nothing"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.life: list[str] = []
        self.running = asyncio.Event()

    async def start(self) -> None:
        self.life.append("start")

    async def run(self) -> None:
        self.life.append("run")
        self.running.set()
        await self.ground.stopping.wait()
        self.life.append("drained")

    async def stop(self) -> None:
        self.life.append("stop")


class Broken(Idle):
    """Fails, or returns, where it is told to."""

    name = "broken"
    where = "run"
    error: Exception = ValueError("a mistake")

    async def start(self) -> None:
        await super().start()
        if self.where == "start":
            raise self.error

    async def run(self) -> None:
        self.running.set()
        if self.where == "run":
            raise self.error
        if self.where == "stop":
            await self.ground.stopping.wait()
            raise self.error


class Stubborn(Idle):
    """Is in the middle of a long step when the stop comes."""

    name = "stubborn"

    async def run(self) -> None:
        self.running.set()
        await asyncio.sleep(60)


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="workers", settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


def ground(bus: Bus, worker: str = "one", settings: WorkerSettings = FAST) -> Ground:
    return Ground(bus, settings, Share(worker))


def registry(bus: Bus) -> WorkerRegistry:
    return WorkerRegistry(bus.rooms.broker, bus.settings.prefix)


async def listed(bus: Bus) -> dict[str, str]:
    return {worker.id: worker.phase for worker in (await registry(bus).roll()).workers}


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await check():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def living(place: Ground, *roles: Role) -> AsyncIterator[Service]:
    service = Service(place, roles)
    running = asyncio.create_task(service.run())
    try:
        await until(lambda: _is_listed(place))
        yield service
    finally:
        if not place.stopping.is_set():
            service.stop()
        async with asyncio.timeout(10):
            await running


async def _is_listed(place: Ground) -> bool:
    return place.share.worker_id in await listed(place.bus)


async def test_roles_start_run_drain_and_stop_and_the_worker_leaves(bus: Bus) -> None:
    place = ground(bus)
    role = Idle(place)
    async with living(place, role):
        assert await listed(bus) == {"one": "running"}
    assert role.life == ["start", "run", "drained", "stop"]
    assert await listed(bus) == {}


@pytest.mark.parametrize(
    ("where", "reason"),
    [("run", "broken ended: ValueError: a mistake"), ("return", "broken ended: it returned"),
     ("start", "broken ended: it did not start: ValueError: a mistake")],
)  # fmt: skip
async def test_a_role_that_ends_by_itself_ends_the_process_with_the_reason(
    bus: Bus, where: str, reason: str
) -> None:
    place = ground(bus)
    broken, other = Broken(place), Idle(place)
    broken.where = where
    async with asyncio.timeout(10):
        with pytest.raises(RoleEnded, match=reason):
            await Service(place, [other, broken]).run()
    assert other.life[-1] == "stop"
    assert broken.life[-1] == "stop", "also what failed half way through its start has to let go"
    assert await listed(bus) == {}


async def test_a_broker_that_goes_away_while_roles_start_is_no_fault_of_theirs(bus: Bus) -> None:
    place = ground(bus)
    broken = Broken(place)
    broken.where, broken.error = "start", BrokerUnavailable("gone")
    async with asyncio.timeout(10):
        # Not RoleEnded: the command then ends as when there is no broker, and is started again.
        with pytest.raises(BrokerUnavailable, match="gone"):
            await Service(place, [broken]).run()
    assert broken.life[-1] == "stop"


async def test_a_failure_during_the_stop_is_not_lost(bus: Bus) -> None:
    place = ground(bus)
    broken = Broken(place)
    broken.where = "stop"
    with pytest.raises(RoleEnded, match="it failed while stopping: ValueError: a mistake"):
        async with living(place, broken):
            await broken.running.wait()


async def test_a_role_that_is_configured_wrongly_says_so_as_usage(bus: Bus) -> None:
    place = ground(bus)
    broken = Broken(place)
    broken.where, broken.error = "start", ConfigurationError("no such database")  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="no such database"):
        await Service(place, [broken]).run()


async def test_one_role_that_cannot_stop_does_not_keep_the_others_from_it(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    class Clinging(Idle):
        async def stop(self) -> None:
            raise ValueError("stuck")

    place = ground(bus)
    first = Idle(place)
    async with living(place, first, Clinging(place)):
        pass
    assert first.life[-1] == "stop"
    assert "did not stop cleanly: ValueError: stuck" in caplog.text
    assert await listed(bus) == {}


async def test_a_stop_waits_for_the_step_but_not_longer_than_the_setting(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    place = ground(bus)
    role = Stubborn(place)
    async with living(place, role) as service:
        await role.running.wait()
        began = asyncio.get_running_loop().time()
        service.stop()
    assert asyncio.get_running_loop().time() - began >= FAST.drain
    assert "stubborn is cut off in the middle of a step: 0.3 s have passed" in caplog.text


async def test_a_second_order_to_stop_ends_at_once(bus: Bus) -> None:
    place = ground(bus, settings=replace(FAST, drain=600))
    role = Stubborn(place)
    async with living(place, role) as service:
        await role.running.wait()
        service.stop()
        service.stop()


async def test_a_stop_during_a_long_start_is_obeyed(bus: Bus) -> None:
    class Slow(Idle):
        async def start(self) -> None:
            self.running.set()
            await asyncio.sleep(600)

    place = ground(bus)
    role = Slow(place)
    service = Service(place, [role])
    running = asyncio.create_task(service.run())
    await role.running.wait()
    service.stop()
    async with asyncio.timeout(10):
        await running
    assert role.life == ["stop"]


async def test_a_draining_worker_gives_its_share_away_at_once(bus: Bus) -> None:
    one, two = ground(bus, "one", replace(FAST, drain=600)), ground(bus, "two")
    role = Stubborn(one)
    async with living(one, role) as service, living(two, Stubborn(two)) as other:
        await until(lambda: _shares(two, 2))
        service.stop()
        await until(lambda: _shares(two, 1))
        assert (await listed(bus))["one"] == "draining", "it still lives, and beats"
        other.stop()
        service.stop()


async def _shares(place: Ground, living: int) -> bool:
    """Whether a worker has as many addresses as with so many workers alive."""
    addresses = [f"agent.a{number}" for number in range(100)]
    mine = sum(place.share.mine("stubborn", address) for address in addresses)
    return mine == 100 if living == 1 else 0 < mine < 100


async def test_the_share_of_a_dead_worker_moves_after_a_while(bus: Bus) -> None:
    place = ground(bus, "two", replace(FAST, absent_after=0.5))
    dead = WorkerState("dead", "host", 1, 0, "running", {"stubborn": Stubborn(place).report.state()})
    await registry(bus).beat(dead)
    async with living(place, Stubborn(place)) as service:
        await until(lambda: _shares(place, 2))
        await until(lambda: _shares(place, 1))
        assert "dead" in await listed(bus), "it is shown for a while"
        service.stop()


async def test_a_registry_that_was_wiped_or_scribbled_on_comes_back(bus: Bus) -> None:
    place, key = ground(bus), f"{bus.settings.prefix}:workers"
    async with living(place, Idle(place)):
        await bus.rooms.broker.execute("DEL", key)
        await until(lambda: _is_listed(place))
        await bus.rooms.broker.execute("HSET", key, "scribble", "no JSON", "number", "5")
        await until(lambda: _only_is_listed(bus, key))
        await bus.rooms.broker.execute("DEL", key)


async def _only_is_listed(bus: Bus, key: str) -> bool:
    return bool(await bus.rooms.broker.execute("HKEYS", key) == [b"one"])


async def test_a_key_of_the_wrong_type_is_told_once_and_work_goes_on(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    place, key = ground(bus), f"{bus.settings.prefix}:workers"
    caplog.set_level(logging.INFO)

    async def again() -> bool:
        return "takes this worker's beat again" in caplog.text

    async def refused() -> bool:
        return "does not take this worker's beat" in caplog.text

    async with living(place, Idle(place)):
        await bus.rooms.broker.execute("SET", key, "x")
        await until(refused)
        await asyncio.sleep(5 * FAST.beat)
        await bus.rooms.broker.execute("DEL", key)
        await until(again)
    assert caplog.text.count("does not take this worker's beat") == 1


async def test_without_a_broker_at_the_start_the_process_ends_with_the_reason(
    private_broker: Callable[..., object], unique: Unique
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="workers") as bus:  # type: ignore[attr-defined]
        place = ground(bus)
        role = Idle(place)
        server.kill()  # type: ignore[attr-defined]
        with pytest.raises(BrokerUnavailable):
            await Service(place, [role]).run()
        assert role.life == ["start", "stop"]


async def test_an_outage_is_logged_once_and_noted_and_the_step_is_tried_again(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    place = ground(bus)
    caplog.set_level(logging.INFO)

    class Ailing(Idle):
        failures = 3

        async def run(self) -> None:
            await self.every(0.01, self.step)

        async def step(self) -> None:
            if self.failures:
                self.failures -= 1
                raise BrokerUnavailable("the server is away")

    role = Ailing(place)

    async def recovered() -> bool:
        return role.report.steps > 2

    async with living(place, role):
        await until(recovered)
    assert role.report.last_error == "BrokerUnavailable: the server is away"
    assert caplog.text.count("the server is away") == 1
    assert "idle goes on" in caplog.text


async def test_what_one_address_refuses_is_logged_once_and_stops_nobody(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    role = Idle(ground(bus))
    for _ in range(50):
        for address, problem in (("agent.a", "no stream"), ("agent.b", "no stream"), ("agent.a", "no hash")):
            with role.apart(address):
                raise WrongKeyType(problem)
    assert len(caplog.records) == 3
    assert role.report.last_error == "WrongKeyType: agent.a: no hash"
    with pytest.raises(BrokerUnavailable), role.apart("agent.a"):
        raise BrokerUnavailable("the server is away")


async def test_a_full_server_keeps_no_worker_from_starting_with_all_its_roles(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="workers") as bus:
        await bus.publish("agent.a.task", 1, delay="100ms")
        await bus.schedules.add("agent.b.task", 1, "interval:1")
        await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 1)
        # Nobody listens at this address: the archive must be on all the same.
        archive = "postgresql://nobody@127.0.0.1:1/none"
        async with working(bus, *ROLES, archive=archive) as roles:
            recurring = roles["recurring"]
            await eventually(lambda: "memory limit" in recurring.report.last_error)
            assert await ArchiveSwitch(bus.rooms.broker, bus.settings.prefix).since_ms() is not None
            # Retries move, they do not grow.
            await eventually(lambda: _waiting(bus, "a"))
            await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 0)
            await eventually(lambda: _waiting(bus, "b"), 10)


async def _waiting(bus: Bus, name: str) -> int:
    return (await bus.inspect(name)).waiting


def test_what_came_late_is_shown_for_ten_seconds_and_then_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("workers.role.time.monotonic", lambda: now[0])
    report = Report()
    assert report.state().lag_ms is None
    report.late(700)
    report.late(3)
    assert report.state().lag_ms == 700
    now[0] += 11
    assert report.state().lag_ms == 0
    report.late(5)
    assert report.state().lag_ms == 5
