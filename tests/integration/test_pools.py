"""Several agents and instances on one inbox."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from agentbus import Agent, Bus, Message
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


async def processed(look: Look, count: int) -> None:
    async def reached() -> bool:
        return await look.count("processed") == count and await look.unsettled() == 0

    await eventually(reached)
    await look.check_balance()


async def parked(bus: Bus, stream: str, count: int) -> None:
    """Wait until so many reads are parked on a stream."""

    async def all_parked() -> bool:
        clients = (await bus.rooms.broker.execute("CLIENT", "LIST")).decode().splitlines()
        return sum("cmd=xreadgroup" in line and "flags=b" in line for line in clients) >= count

    await eventually(all_parked)


async def test_an_idle_pool_takes_turns_exactly(private_broker: Callable[..., Any], unique: Unique) -> None:
    pool, taken = unique("pool"), []
    async with Bus(private_broker().url, agent="tester") as bus, AsyncExitStack() as stack:
        look = Look(bus, pool)
        for number in range(4):
            agent = Agent(unique("member"), pools=[pool])
            agent.on("task")(_noting(taken, number))
            await stack.enter_async_context(bus.serving(agent))
        for turn in range(40):
            await parked(bus, look.keys.sources[3], 4)
            await bus.publish(f"agent.{pool}.task", turn)
            await eventually(lambda turn=turn: len(taken) == turn + 1)
    assert set(Counter(taken).values()) == {10}
    assert taken[:4] * 10 == taken


def _noting(taken: list[int], number: int) -> Callable[..., Any]:
    async def handle() -> None:
        taken.append(number)

    return handle


async def test_a_member_of_a_pool_serves_its_own_name_too(bus: Bus, unique: Unique) -> None:
    pool, name, seen = unique("pool"), unique("member"), []
    agent = Agent(name, pools=[pool])

    @agent.on("task")
    async def handle(message: Message) -> None:
        seen.append(message.to_agent)

    async with bus.serving(agent):
        await bus.publish(f"agent.{pool}.task", None)
        await bus.publish(f"agent.{name}.task", None)
        await processed(Look(bus, pool), 1)
        await processed(Look(bus, name), 1)
    assert sorted(seen) == sorted([pool, name])


async def test_two_instances_share_the_work_and_no_message_runs_twice(bus: Bus, unique: Unique) -> None:
    name, taken = unique("worker"), Counter[str]()
    agents = [Agent(name, concurrency=3) for _ in range(2)]
    for number, agent in enumerate(agents):
        agent.on("task")(_counting(taken, number))
    async with bus.serving(*agents):
        await bus.publish_many(f"agent.{name}.task", range(60))
        await processed(Look(bus, name), 60)
    assert taken.total() == 60
    assert min(taken["0"], taken["1"]) >= 10


def _counting(taken: Counter[str], number: int) -> Callable[..., Any]:
    async def handle() -> None:
        taken[str(number)] += 1
        await asyncio.sleep(0.03)

    return handle


async def test_an_agent_runs_as_many_handlers_at_once_as_its_concurrency(bus: Bus, unique: Unique) -> None:
    agent, running, most = Agent(unique("worker"), concurrency=3), 0, 0

    @agent.on("task")
    async def handle() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with bus.serving(agent):
        await bus.publish_many(f"agent.{agent.name}.task", [None] * 30)
        await processed(Look(bus, agent.name), 30)
    assert most == 3


async def test_several_agents_in_one_process_do_not_mix(bus: Bus, unique: Unique) -> None:
    agents, seen = [Agent(unique("agent")) for _ in range(20)], Counter[str]()
    for agent in agents:
        agent.on("task")(_named(seen, agent.name))
    async with bus.serving(*agents):
        await asyncio.gather(
            *(bus.publish(f"agent.{agent.name}.task", None) for agent in agents for _ in range(5))
        )
        for agent in agents:
            await processed(Look(bus, agent.name), 5)
    assert seen == {agent.name: 5 for agent in agents}


def _named(seen: Counter[str], name: str) -> Callable[..., Any]:
    async def handle(message: Message) -> None:
        assert message.to_agent == name
        seen[name] += 1

    return handle


async def test_nothing_waits_behind_a_long_handler_while_a_sibling_is_idle(bus: Bus, unique: Unique) -> None:
    """Fast handlers earned a prefetch; then one takes long, and what had come with it must not wait."""
    name, look_on, quick = unique("worker"), asyncio.Event(), Counter[int]()
    agents = [Agent(name, concurrency=1) for _ in range(2)]
    for number, agent in enumerate(agents):
        agent.on("quick")(_quick(quick, number))
        agent.on("long")(_waiting_for(look_on))
    look = Look(bus, name)
    async with bus.serving(*agents):
        await bus.publish_many(f"agent.{name}.quick", range(200))
        await processed(look, 200)
        await asyncio.gather(
            *(bus.publish(f"agent.{name}.quick", n) for n in range(10)),
            bus.publish(f"agent.{name}.long", None),
            *(bus.publish(f"agent.{name}.quick", n) for n in range(50)),
        )

        async def all_but_the_long_one() -> bool:
            return await look.count("processed") == 260

        await eventually(all_but_the_long_one, 5)
        assert not look_on.is_set()
        look_on.set()
        await processed(look, 261)


def _quick(counts: Counter[int], number: int) -> Callable[..., Any]:
    async def handle() -> None:
        counts[number] += 1

    return handle


def _waiting_for(event: asyncio.Event) -> Callable[..., Any]:
    async def handle() -> None:
        await event.wait()

    return handle
