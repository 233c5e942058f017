"""Many subscribers of one channel: everybody gets everything, and those who wait ask for little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from agentbus import Agent, Bus, Delivery
from agentbus.broker.embedded import PrivateBroker
from agentbus.testing import BrokerForTests
from tests.agents.channel_look import ChannelLook
from tests.agents.waiting import eventually

SUBSCRIBERS, MESSAGES = 200, 50


def reader(name: str, topic: str, seen: list[int]) -> Agent:
    agent = Agent(name)

    @agent.on(topic)
    async def note(body: int) -> None:
        seen.append(body)

    return agent


async def test_two_hundred_subscribers_all_get_fifty_messages_in_order(
    broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    # A smaller copy of the benchmark, which wants it five times as large within ten seconds.
    channel, seen = f"channel.{unique('many')}", [list[int]() for _ in range(SUBSCRIBERS)]
    agents = [reader(unique("reader"), f"{channel}.note", each) for each in seen]
    async with Bus(broker.url, agent="announcer") as bus, bus.serving(*agents):
        await bus.publish_many(f"{channel}.note", range(MESSAGES))
        await eventually(lambda: sum(map(len, seen)) >= SUBSCRIBERS * MESSAGES, within=90, pause=0.05)
    assert seen == [list(range(MESSAGES))] * SUBSCRIBERS


async def test_a_handler_that_the_machine_held_up_once_does_not_make_its_agent_take_messages_one_by_one(
    broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    # On a busy machine each question takes seconds: a hundred of them would be minutes.
    channel, agent, seen = f"channel.{unique('many')}", Agent(unique("reader")), list[int]()

    @agent.on(f"{channel}.note")
    async def note(body: int) -> None:
        if body == 0:
            await asyncio.sleep(0.5)
        seen.append(body)

    async with Bus(broker.url, agent="announcer") as bus, bus.serving(agent):
        await bus.publish_many(f"{channel}.note", range(MESSAGES))
        await eventually(lambda: len(seen) == MESSAGES)
        look = ChannelLook(bus.rooms.broker, bus.settings.prefix, channel, agent.name)
        await look.settled(processed=MESSAGES)
        records = await bus.rooms.broker.execute("XRANGE", look.keys.reads, "-", "+")
    assert seen == list(range(MESSAGES))
    assert len([fields for _, fields in records if fields[0] == b"delivered"]) <= 5


async def test_a_subscriber_that_hears_nothing_asks_for_little(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    agents = [reader(f"idle-{number}", "channel.quiet.note", []) for number in range(20)]
    async with Bus(private_broker().url, agent="tester") as bus, bus.serving(*agents):

        async def calls(command: str) -> int:
            lines = (await bus.rooms.broker.execute("INFO", "commandstats")).decode().splitlines()
            found = [line for line in lines if line.startswith(f"cmdstat_{command}:")]
            return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0

        # The first beats tell each that it is alone.
        before = await calls("hlen")
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while await calls("hlen") < before + 2 * 2 * len(agents):
                    await asyncio.sleep(0.05)
        counted = {name: await calls(name) for name in ("hlen", "hgetall", "evalsha")}
        await eventually(lambda: _grown(calls, counted["hlen"], 3 * 2 * len(agents)), pause=0.05)
        spent = {name: await calls(name) - count for name, count in counted.items()}
    # Per beat, of which each agent has two at a time: nobody else's beats are asked for, and less than six
    # scripts run for both of its places.
    assert spent["hgetall"] < len(agents)
    assert spent["evalsha"] < 3 * spent["hlen"]


async def _grown(calls: Callable[[str], object], before: int, by: int) -> bool:
    return bool(await calls("hlen") >= before + by)  # type: ignore[misc,operator]


async def test_what_one_of_several_handlers_hands_back_is_looked_for_soon(
    broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    topic, times = f"channel.{unique('several')}.note", list[float]()
    agent = Agent(unique("reader"))

    @agent.on(topic, concurrency=2)
    async def take(delivery: Delivery) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            await delivery.release()

    async with Bus(broker.url, agent="tester") as bus, bus.serving(agent):
        await asyncio.sleep(2.5)
        await bus.publish(topic, 1)
        await eventually(lambda: len(times) == 2)
    assert times[1] - times[0] < 4.0
