"""The reader and the settler when the broker goes away, forgets, refuses or loses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentbus import Agent, AgentSettings, Bus, BusSettings, Retry, WrongKeyType
from agentbus.broker.embedded import PrivateBroker
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.proxy import Proxy

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


def listing(name: str, seen: list[Any], **options: Any) -> Agent:
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01), **options)

    @agent.on("task")
    async def handle(body: Any) -> None:
        seen.append(body)

    return agent


async def processed(look: Look, count: int, within: float = 15.0) -> None:
    async def reached() -> bool:
        return await look.count("processed") == count and await look.unsettled() == 0

    await eventually(reached, within)
    await look.check_balance()


async def test_what_was_published_before_anybody_served_is_delivered(bus: Bus, name: str) -> None:
    seen: list[Any] = []
    for number in range(5):
        await bus.publish(f"agent.{name}.task", number)
    async with bus.serving(listing(name, seen)):
        await processed(Look(bus, name), 5)
    assert seen == [0, 1, 2, 3, 4]


async def test_ten_thousand_messages_each_run_once(bus: Bus, name: str) -> None:
    seen: list[Any] = []
    async with bus.serving(listing(name, seen, concurrency=50)):
        await bus.publish_many(f"agent.{name}.task", range(10_000))
        await processed(Look(bus, name), 10_000)
    assert sorted(seen) == list(range(10_000))


async def test_a_broker_that_is_killed_and_comes_back_is_found_again(
    private_broker: Callable[..., PrivateBroker], name: str
) -> None:
    server, seen = private_broker(), []
    async with Bus(server.url, agent="tester") as bus, bus.serving(listing(name, seen)):
        for round_number in range(3):
            await bus.publish(f"agent.{name}.task", round_number)
            await eventually(lambda n=round_number: n in seen)
            server.kill()
            sending = asyncio.create_task(bus.publish(f"agent.{name}.task", f"during {round_number}"))
            await asyncio.sleep(0.2)
            assert not sending.done()
            server.start()
            await sending
            await eventually(lambda n=round_number: f"during {n}" in seen)
    assert len(seen) == len(set(seen)) == 6


async def test_streams_and_groups_that_somebody_deleted_are_made_again(bus: Bus, name: str) -> None:
    seen: list[Any] = []
    look = Look(bus, name)
    async with bus.serving(listing(name, seen)):
        await bus.publish(f"agent.{name}.task", "before")
        await eventually(lambda: seen == ["before"])
        await bus.rooms.broker.execute("DEL", *look.keys.sources)
        await eventually(lambda: bus.events.counts["data_lost"] >= 1)
        await bus.publish(f"agent.{name}.task", "after")
        await eventually(lambda: seen == ["before", "after"])


async def test_a_server_that_forgot_everything_is_served_anew(
    private_broker: Callable[..., PrivateBroker], name: str
) -> None:
    server, seen = private_broker(), []
    async with Bus(server.url, agent="tester") as bus, bus.serving(listing(name, seen)):
        await bus.publish(f"agent.{name}.task", "before")
        await eventually(lambda: seen == ["before"])
        server.flush()
        # Its own name is gone with the rest: it takes a new one.
        await eventually(lambda: bus.events.counts["fenced"] >= 1)
        look = Look(bus, name)
        await eventually(look.alive)
        await bus.publish(f"agent.{name}.task", "after")
        await eventually(lambda: seen == ["before", "after"])


async def test_a_key_of_the_wrong_type_is_named_and_nothing_is_written(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await bus.rooms.broker.execute("SET", look.keys.alive, "mine")
    with pytest.raises(WrongKeyType, match="alive is a string, not a hash"):
        async with asyncio.timeout(5), bus.serving(Agent(name)):
            pass
    keys = await bus.rooms.broker.execute("KEYS", f"agentbus:{{agent.{name}}}:*")
    # Others look at every address of this server.
    await bus.rooms.broker.execute("DEL", look.keys.alive)
    assert keys == [look.keys.alive.encode()]


async def test_a_trim_from_outside_takes_messages_in_work_and_nobody_loops(bus: Bus, name: str) -> None:
    agent, look = Agent(name, retry=Retry(max_retries=3, retry_delay=0.01)), Look(bus, name)
    begun, go_on, runs = [], asyncio.Event(), []

    @agent.on("fails")
    async def fails(body: int) -> None:
        begun.append(body)
        await go_on.wait()
        runs.append(body)
        raise ValueError

    @agent.on("works")
    async def works(body: int) -> None:
        begun.append(body)
        await go_on.wait()
        runs.append(body)

    async with bus.serving(agent):
        await bus.publish_many(f"agent.{name}.fails", [1, 2])
        await bus.publish(f"agent.{name}.works", 3)
        await eventually(lambda: len(begun) == 3)
        await bus.rooms.broker.execute("XTRIM", look.keys.sources[3], "MAXLEN", 0)
        go_on.set()

        async def ended() -> bool:
            return await look.unsettled() == 0 and await look.count("processed") == 1

        await eventually(ended)
        assert await look.count("vanished") == 2
        await bus.publish(f"agent.{name}.works", 4)
        await eventually(lambda: 4 in runs)
    assert sorted(runs) == [1, 2, 3, 4]
    await look.check_balance()


async def test_a_slow_and_slicing_link_is_only_slow(broker: BrokerForTests, bus: Bus, name: str) -> None:
    seen: list[Any] = []
    async with Proxy(broker.url) as proxy:
        proxy.delay = 0.002
        proxy.slice = 97
        agent = listing(name, seen, settings=AgentSettings(lease=30.0))
        async with Bus(proxy.url, agent="slow") as worker, worker.serving(agent):
            await bus.publish_many(f"agent.{name}.task", range(200))
            await processed(Look(bus, name), 200)
    assert sorted(seen) == list(range(200))


async def test_a_link_that_is_dead_from_the_start_of_a_fetch_is_given_up_in_time(
    broker: BrokerForTests, bus: Bus, name: str
) -> None:
    seen: list[Any] = []
    settings = BusSettings(command_timeout=0.5)
    agent = listing(name, seen, settings=AgentSettings(lease=30.0))
    async with (
        Proxy(broker.url) as proxy,
        Bus(proxy.url, agent="worker", settings=settings) as worker,
        worker.serving(agent),
    ):
        await bus.publish(f"agent.{name}.task", 1)
        await eventually(lambda: seen == [1])
        proxy.black_hole = True
        await bus.publish_many(f"agent.{name}.task", [2, 3])
        # What is swallowed from now on is never heard of again.
        await asyncio.sleep(0.1)
        proxy.black_hole = False
        await processed(Look(bus, name), 3)
    assert sorted(seen) == [1, 2, 3]


async def test_an_error_of_the_program_itself_ends_serve_and_is_not_hidden_in_groups(
    bus: Bus, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(name)

    @agent.on("exit")
    async def handle() -> None:
        raise BaseExceptionOfTheProgram

    serving = asyncio.create_task(bus.serve(agent, handle_signals=False))
    await bus.publish(f"agent.{name}.exit", None)
    with pytest.raises(BaseExceptionOfTheProgram):
        await asyncio.wait_for(serving, 15)


class BaseExceptionOfTheProgram(BaseException):
    """Like SystemExit: not for the bus to handle."""
