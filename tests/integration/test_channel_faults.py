"""Subscribers of a channel that are killed, frozen, cut off; brokers that die, forget, fill up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentbus import Agent, AgentSettings, BrokerUnavailable, Bus, Context, Event, Policy, Retry
from agentbus.broker.embedded import PrivateBroker
from agentbus.errors import AgentBusError
from agentbus.testing import BrokerForTests
from tests.agents.channel_look import ChannelLook
from tests.agents.look import Look
from tests.agents.process import Fleet, fleet
from tests.agents.waiting import eventually
from tests.proxy import Proxy

Unique = Callable[[str], str]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

LEASE = {"lease": 2.0}


@pytest.fixture
def channel(unique: Unique) -> str:
    return f"channel.{unique('design')}"


@pytest.fixture
def agents(broker: BrokerForTests, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(broker.url, tmp_path) as started:
        yield started


def look_at(bus: Bus, channel: str, agent: str) -> ChannelLook:
    return ChannelLook(bus.rooms.broker, bus.settings.prefix, channel, agent)


def reader(name: str, channel: str, seen: list[int], **options: Any) -> Agent:
    """An agent that notes what it reads, from the beginning."""
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01), settings=AgentSettings(lease=2.0))

    @agent.on(f"{channel}.note", start="beginning", **options)
    async def note(body: int) -> None:
        seen.append(body)

    return agent


# --- processes that die ---


async def test_a_frozen_subscriber_wakes_to_a_lost_lease_and_settles_nothing(
    bus: Bus, agents: Fleet, channel: str, unique: Unique
) -> None:
    name = unique("agent")
    look = look_at(bus, channel, name)
    first = agents.start(name, channel=channel, settings=LEASE)
    await look.joined(first)
    await bus.publish(f"{channel}.steps", {"n": 1, "steps_after_crash": 3})
    await bus.publish(f"{channel}.note", {"n": 2})
    await eventually(lambda: len(first.lines("step")) > 3)
    second = agents.start(name, channel=channel, settings=LEASE)
    await look.joined(second)
    first.freeze()
    steps = len(first.lines("step"))
    await look.settled(processed=2)
    first.thaw()
    await eventually(lambda: first.lines("event", action="fenced"))
    assert len(first.lines("step")) <= steps + 1, "one may have been on its way to the file"
    assert [line["pid"] for line in agents.lines("begin", n=2)] == [second.pid]
    # It reads again under another name, after its sibling.
    await look.joined(first)
    await look.settled(processed=2)


async def test_a_poison_message_of_a_channel_is_a_dead_letter_after_three_deaths_and_its_neighbours_are_not(
    bus: Bus, agents: Fleet, channel: str, unique: Unique
) -> None:
    name = unique("agent")
    look, inbox = look_at(bus, channel, name), Look(bus, name)
    # The neighbours end in the same moment in which the poison kills: nobody hears that they did.
    await bus.publish_many(f"{channel}.note", [{"n": n} for n in range(3)])
    await bus.publish(f"{channel}.poison", {"n": 3})
    await bus.publish_many(f"{channel}.note", [{"n": n} for n in range(4, 7)])
    processes = [agents.start(name, channel=channel, settings=LEASE) for _ in range(4)]
    await eventually(lambda: sum(each.ended is not None for each in processes) == 3, 40)
    await look.settled(processed=6, moved=1)
    assert await inbox.dead_reasons() == ["crashed"]
    await inbox.check_balance()
    assert [line["crashes"] for line in agents.lines("begin", n=3)] == [0, 1, 2]
    # Whoever takes over goes on where the dead one was, in order.
    firsts = list(dict.fromkeys(line["n"] for line in agents.lines("begin")))
    assert firsts == list(range(7))
    assert len({line["pid"] for line in agents.lines("begin", n=3)}) == 3
    ends = [line["n"] for line in agents.lines("end")]
    assert {n: min(1, ends.count(n)) for n in range(7)} == {0: 1, 1: 1, 2: 1, 3: 0, 4: 1, 5: 1, 6: 1}


# --- lines that are cut ---


async def test_a_subscriber_on_a_line_that_went_dead_is_replaced_and_comes_back(
    broker: BrokerForTests, bus: Bus, channel: str, unique: Unique
) -> None:
    name = unique("agent")
    look = look_at(bus, channel, name)
    cut, there, begun = list[int](), list[int](), list[int]()
    deaf = Agent(name, settings=AgentSettings(lease=2.0))

    @deaf.on(f"{channel}.note", start="beginning")
    async def note(body: int) -> None:
        begun.append(body)
        if body == 1:
            await asyncio.sleep(60)
        cut.append(body)

    events: list[Event] = []
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent=name) as far:
        far.events.listen(events.append)
        async with far.serving(deaf):
            await bus.publish_many(f"{channel}.note", [0, 1, 2])
            await eventually(lambda: 1 in begun)
            async with Bus(broker.url, agent=name) as near:
                async with near.serving(reader(name, channel, there)):
                    proxy.black_hole = True
                    await eventually(lambda: there == [1, 2])
                    proxy.black_hole = False
                    proxy.reset()
                    await eventually(lambda: any(event.action == "fenced" for event in events))
                await look.settled(processed=3)
            await bus.publish(f"{channel}.note", 3)
            await eventually(lambda: cut == [0, 3])
            await look.settled(processed=4)
    assert begun == [0, 1, 3]


# --- brokers ---


@asynccontextmanager
async def numbers(url: str, topic: str) -> AsyncIterator[list[int]]:
    """Publish numbers all the time; yields those that were stored, and stops at the end."""
    stored: list[int] = []

    async def publish(bus: Bus) -> None:
        number = 0
        while True:
            results = await bus.publish_many(topic, range(number, number + 20))
            stored.extend(
                number + index
                for index, result in enumerate(results)
                if not isinstance(result, AgentBusError)
            )
            number += 20
            await asyncio.sleep(0.01)

    async with Bus(url, agent="writer") as bus:
        task = asyncio.create_task(publish(bus))
        try:
            yield stored
        finally:
            task.cancel()
            await asyncio.wait((task,))


@pytest.mark.parametrize("sync", ["always", "everysec"])
async def test_subscribers_come_through_a_kill_of_the_broker_under_load(
    private_broker: Callable[..., PrivateBroker], sync: str
) -> None:
    server, channel = private_broker(appendfsync=sync), "channel.load"
    ordered, wide = list[int](), list[int]()
    async with Bus(server.url, agent="tester") as bus:
        looks = [look_at(bus, channel, name) for name in ("ordered", "wide")]
        async with (
            Bus(server.url) as other,
            other.serving(reader("ordered", channel, ordered), reader("wide", channel, wide, concurrency=4)),
        ):
            async with numbers(server.url, f"{channel}.note") as stored:
                await eventually(lambda: len(ordered) > 100 and len(wide) > 100)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                count = len(ordered)
                await eventually(lambda: len(ordered) > count + 100, 20)
            await eventually(lambda: set(stored) <= set(ordered) and set(stored) <= set(wide), 20)
            for look in looks:
                await eventually(lambda look=look: nothing_pending(look), 15)
                await look.check_books()
    firsts = list(dict.fromkeys(ordered))
    if sync == "always":
        assert firsts == sorted(firsts)


async def nothing_pending(look: ChannelLook) -> bool:
    try:
        return await look.pending() == 0
    except BrokerUnavailable:
        # A connection from before the kill.
        return False


async def test_a_broker_that_forgets_everything_is_told_of_and_read_on(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server, channel = private_broker(), "channel.short"
    seen, events = list[int](), list[Event]()
    async with Bus(server.url, agent="tester") as bus:
        broker = bus.rooms.broker
        look = look_at(bus, channel, "reader")
        async with Bus(server.url) as other:
            other.events.listen(events.append)
            async with other.serving(reader("reader", channel, seen)):
                await bus.publish_many(f"{channel}.note", [1, 2])
                await look.settled(processed=2)
                # Its cursor only: it goes on where it stood.
                await broker.execute("XGROUP", "DESTROY", look.keys.log, "reader")
                await bus.publish(f"{channel}.note", 3)
                await eventually(lambda: seen == [1, 2, 3])
                assert [event.action for event in events].count("data_lost") == 1
                await look.settled(processed=3)
                await broker.execute("FLUSHALL")
                await bus.publish(f"{channel}.note", 4)
                await eventually(lambda: seen == [1, 2, 3, 4])
                addresses = [event.address for event in events if event.action == "data_lost"]
                assert addresses.count(channel) == 2
                await look.settled(processed=1)
                await eventually(lambda: look.alive())
                before = await commands(bus)
                await asyncio.sleep(1.0)
                # Both lives of the agent join anew meanwhile; without a pause it would be thousands.
                assert await commands(bus) - before < 400, "nobody asks without a pause"


async def commands(bus: Bus) -> int:
    text = (await bus.rooms.broker.execute("INFO", "stats")).decode()
    return int(text.partition("total_commands_processed:")[2].split()[0])


async def test_a_full_server_lets_subscribers_do_everything_but_publish(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server, channel = private_broker(), "channel.full"
    seen: list[int] = []
    picky = Agent("picky", retry=Retry(max_retries=1, retry_delay=0.01), settings=AgentSettings(lease=2.0))

    @picky.on(f"{channel}.note", start="beginning")
    async def note(body: int, context: Context) -> None:
        if body == 1 and context.attempt == 1:
            raise RuntimeError("not yet")
        if body == 2:
            await context.delivery.reject()
        seen.append(body)

    async with Bus(server.url, agent="tester") as bus:
        look, inbox = look_at(bus, channel, "picky"), Look(bus, "picky")
        # No room in the inbox either: what is carried there finds some all the same.
        await bus.declare("agent.picky", Policy(limit=1))
        await bus.publish("agent.picky.other", None)
        await bus.publish_many(f"{channel}.note", range(6))
        await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 1)
        async with bus.serving(picky):
            await eventually(lambda: sorted(seen) == [0, 1, 2, 3, 4, 5])
            await look.settled(processed=4, moved=2)
            await eventually(lambda: ended(inbox))
        assert await look.alive() == {}
        assert sorted(await inbox.dead_reasons()) == ["no_handler", "rejected"]
        await inbox.check_balance()


async def ended(inbox: Look) -> bool:
    return await inbox.unsettled() == 0


# --- trimming, and coming and going ---


async def test_a_log_trimmed_under_a_running_handler_costs_nothing_and_after_a_crash_is_a_gap(
    bus: Bus, agents: Fleet, channel: str, unique: Unique
) -> None:
    name = unique("agent")
    look = look_at(bus, channel, name)
    await bus.publish(f"{channel}.sleep", {"n": 0, "seconds": 0.2})
    await bus.publish(f"{channel}.sleep", {"n": 1, "seconds": 60})
    first = agents.start(name, channel=channel, settings=LEASE)
    await eventually(lambda: first.lines("begin", n=0))
    second = agents.start(name, channel=channel, settings=LEASE)
    await bus.rooms.broker.execute("XTRIM", look.keys.log, "MAXLEN", 1)
    await eventually(lambda: first.lines("begin", n=1))
    await look.settled(processed=1, missed=0)
    await bus.rooms.broker.execute("XTRIM", look.keys.log, "MAXLEN", 0)
    await look.joined(second)
    first.kill()
    await bus.publish(f"{channel}.note", {"n": 2})
    (begin,) = await eventually(lambda: second.lines("begin"))
    assert (begin["n"], begin["gap"]) == (2, 1)
    assert second.lines("event", action="gap")
    await look.settled(processed=2, missed=1, vanished=1)


async def test_subscribing_and_unsubscribing_in_a_stream_of_messages_neither_skips_nor_doubles(
    broker: BrokerForTests, bus: Bus, channel: str, unique: Unique
) -> None:
    name, seen = unique("agent"), list[int]()
    look = look_at(bus, channel, name)
    agent = reader(name, channel, seen)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def note(body: int) -> None:
        seen.append(body)
        if body % 7 == 0:
            await asyncio.sleep(0.001)

    @agent.on(f"{channel}-long.wait", start="beginning")
    async def wait(body: int) -> None:
        begun.set()
        await go_on.wait()

    await bus.publish(f"{channel}-long.wait", 1)
    async with bus.serving(agent):
        await begun.wait()
        # What runs at another channel holds up neither the end nor the begin of this one.
        agent.off(f"{channel}-long.wait")
        async with numbers(broker.url, f"{channel}.note") as stored:
            for times in range(12):
                count = len(seen)
                await eventually(lambda count=count: len(seen) > count + 10)
                agent.off(f"{channel}.note")
                if times % 3:
                    await asyncio.sleep(0.002 * times)
                agent.on(f"{channel}.note")(note)
        await eventually(lambda: len(seen) >= len(stored), 30)
        await look.check_books()
        go_on.set()
    assert seen == list(range(len(seen)))
