"""Subscribing to channels: a cursor for each agent, order, retries of one's own, gaps that are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from agentbus import (
    Agent,
    AgentSettings,
    BrokerRefused,
    Bus,
    Context,
    Event,
    NoSuchCursor,
    NoSuchMessage,
    Reject,
    Retry,
)
from agentbus.broker.keys import channel_keys, subscriber_keys
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays

Unique = Callable[[str], str]


@pytest.fixture
def channel(unique: Unique) -> str:
    return f"channel.{unique('design')}"


def reader(name: str, topic: str, seen: list[Any], **options: Any) -> Agent:
    """An agent that notes what it reads."""
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01), settings=AgentSettings(lease=2.0))

    @agent.on(topic, **options)
    async def note(body: Any) -> None:
        seen.append(body)

    return agent


async def counters(bus: Bus, channel: str, agent: str) -> dict[str, str]:
    keys = subscriber_keys(bus.settings.prefix, channel, agent)
    flat = await bus.rooms.broker.execute("HGETALL", keys.subscriber)
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


async def log_call(bus: Bus, channel: str, verb: str, *arguments: Any) -> Any:
    return await bus.rooms.broker.execute(verb, channel_keys(bus.settings.prefix, channel).log, *arguments)


async def test_what_is_published_once_reaches_every_subscriber_in_order(
    bus: Bus, channel: str, unique: Unique
) -> None:
    seen: list[list[int]] = [[] for _ in range(5)]
    agents = [reader(unique("reader"), f"{channel}.note", each) for each in seen]
    await bus.publish(f"{channel}.note", -1)
    async with bus.serving(*agents):
        await bus.publish_many(f"{channel}.note", range(200))
        await bus.publish(f"{channel}.other", "not for them")
        await eventually(lambda: all(len(each) == 200 for each in seen))
        for agent in agents:

            async def settled(name: str = agent.name) -> bool:
                return (await counters(bus, channel, name)).get("processed") == "201"

            await eventually(settled)
    assert seen == [list(range(200))] * 5
    # The log keeps everything; nothing of it went into an inbox.
    assert await log_call(bus, channel, "XLEN") == 202


@pytest.mark.parametrize("start", ["beginning", "time", "entry"])
async def test_a_new_cursor_begins_where_it_was_asked_to(
    bus: Bus, channel: str, unique: Unique, start: str
) -> None:
    first = await bus.publish(f"{channel}.note", 0)
    while (
        int(datetime.now(UTC).timestamp() * 1000) <= int(str(first.entry_id).split(" ")[-1].split("-")[0]) + 1
    ):
        await asyncio.sleep(0.001)
    middle = datetime.now(UTC)
    await bus.publish(f"{channel}.note", 1)
    where: Any = {"beginning": "beginning", "time": middle, "entry": str(first.entry_id).split(" ")[-1]}[
        start
    ]
    seen: list[int] = []
    async with bus.serving(reader(unique("late"), f"{channel}.note", seen, start=where)):
        await bus.publish(f"{channel}.note", 2)
        await eventually(lambda: 2 in seen)
    assert seen == ([0, 1, 2] if start == "beginning" else [1, 2])


async def test_an_agent_that_was_away_goes_on_where_it_stood(bus: Bus, channel: str, unique: Unique) -> None:
    name, seen = unique("away"), list[int]()
    async with bus.serving(reader(name, f"{channel}.note", seen)):
        await bus.publish(f"{channel}.note", 1)
        await eventually(lambda: seen == [1])
    await bus.publish_many(f"{channel}.note", [2, 3])
    async with bus.serving(reader(name, f"{channel}.note", seen)):
        await eventually(lambda: len(seen) == 3)
    assert seen == [1, 2, 3]


async def test_a_failing_handlers_retry_concerns_that_subscriber_alone(
    bus: Bus, channel: str, unique: Unique
) -> None:
    attempts: list[tuple[int, int]] = []
    seen: list[int] = []
    failing = Agent(unique("failing"), retry=Retry(max_retries=1, retry_delay=0.01))

    @failing.on(f"{channel}.note")
    async def fail(body: int, context: Context) -> None:
        attempts.append((body, context.attempt))
        if body == 0 and context.attempt == 1:
            raise RuntimeError("not yet")
        if body == 1:
            raise Reject("never")

    async with bus.serving(failing, reader(unique("other"), f"{channel}.note", seen)):
        await bus.publish_many(f"{channel}.note", [0, 1, 2])
        look = Look(bus, failing.name)
        await eventually(lambda: (0, 2) in attempts and len(seen) == 3)

        async def buried() -> bool:
            return await look.dead_reasons() == ["rejected"]

        await eventually(buried)

        async def ended() -> bool:
            return await look.count("processed") == 1

        await eventually(ended)
        await look.check_balance()
    assert sorted(attempts) == [(0, 1), (0, 2), (1, 1), (2, 1)]
    found = await counters(bus, channel, failing.name)
    assert (found["processed"], found["moved"], found["handed_out"]) == ("1", "2", "3")


async def test_a_slow_subscriber_holds_nobody_up(bus: Bus, channel: str, unique: Unique) -> None:
    hold, seen = asyncio.Event(), list[int]()
    slow = Agent(unique("slow"))

    @slow.on(f"{channel}.note")
    async def wait(body: int) -> None:
        await hold.wait()

    async with bus.serving(slow, reader(unique("fast"), f"{channel}.note", seen)):
        await bus.publish_many(f"{channel}.note", range(50))
        await eventually(lambda: len(seen) == 50)
        hold.set()


async def test_the_sender_gets_none_of_its_own_unless_it_asks(bus: Bus, channel: str, unique: Unique) -> None:
    name = unique("talker")
    seen: list[int] = []
    own: list[int] = []
    talker = reader(name, f"{channel}.note", seen)
    talker.on(f"{channel}.echo", include_own=True)(own.append)
    async with Bus(bus._url, agent=name) as mine, bus.serving(talker):
        await mine.publish(f"{channel}.note", 1)
        await mine.publish(f"{channel}.echo", 2)
        await bus.publish(f"{channel}.note", 3)
        await eventually(lambda: seen == [3] and own == [2])


async def test_what_retention_took_before_it_was_read_is_told_once_with_its_number(
    bus: Bus, channel: str, unique: Unique
) -> None:
    name, told = unique("late"), list[Event]()
    seen: list[tuple[int, int | None]] = []
    agent = Agent(name)

    @agent.on(f"{channel}.note")
    async def note(body: int, context: Context) -> None:
        seen.append((body, context.gap and context.gap.missed))

    bus.events.listen(told.append)
    async with bus.serving(agent):
        await bus.publish(f"{channel}.note", 0)
        await eventually(lambda: len(seen) == 1)
    await bus.publish_many(f"{channel}.note", range(1, 11))
    await log_call(bus, channel, "XTRIM", "MAXLEN", 3)
    async with bus.serving(agent):
        await eventually(lambda: len(seen) == 4)
        await bus.publish(f"{channel}.note", 11)
        await eventually(lambda: len(seen) == 5)
    assert seen == [(0, None), (8, 7), (9, None), (10, None), (11, None)]
    assert [event.fields["missed"] for event in told if event.action == "gap"] == [7]
    assert (await counters(bus, channel, name))["missed"] == "7"


async def test_handlers_come_and_go_while_the_agent_is_served(bus: Bus, channel: str, unique: Unique) -> None:
    seen: list[int] = []
    late: list[int] = []
    agent = Agent(unique("changing"))
    async with bus.serving(agent):
        agent.on(f"{channel}.note")(seen.append)
        keys = subscriber_keys(bus.settings.prefix, channel, agent.name)

        async def reads() -> bool:
            return bool(await bus.rooms.broker.execute("HLEN", keys.alive))

        await eventually(reads)
        await bus.publish(f"{channel}.note", 1)
        await eventually(lambda: seen == [1])
        agent.off(f"{channel}.note")
        await eventually(lambda: not_reads(bus, keys.alive))
        await bus.publish(f"{channel}.note", 2)
        agent.on(f"{channel}.note")(late.append)
        await eventually(lambda: late == [2])
        await stays(lambda: seen == [1], 0.1)


async def not_reads(bus: Bus, alive: str) -> bool:
    return not await bus.rooms.broker.execute("HLEN", alive)


async def test_two_instances_of_one_agent_handle_each_message_once_and_in_order(
    broker: BrokerForTests, bus: Bus, channel: str, unique: Unique
) -> None:
    name, seen = unique("twins"), list[int]()
    async with Bus(broker.url) as other, bus.serving(reader(name, f"{channel}.note", seen)):
        async with other.serving(reader(name, f"{channel}.note", seen)):
            await bus.publish_many(f"{channel}.note", range(100))
            await eventually(lambda: len(seen) >= 100)
        # One of them has left; whoever is there goes on, in order.
        await bus.publish_many(f"{channel}.note", range(100, 200))
        await eventually(lambda: len(seen) >= 200)
    assert seen == list(range(200))


async def test_with_concurrency_several_run_at_a_time(bus: Bus, channel: str, unique: Unique) -> None:
    running = 0
    together = asyncio.Event()
    agent = Agent(unique("wide"))

    @agent.on(f"{channel}.note", concurrency=4)
    async def work(body: int) -> None:
        nonlocal running
        running += 1
        if running == 4:
            together.set()
        await together.wait()

    async with bus.serving(agent):
        await bus.publish_many(f"{channel}.note", range(4))
        async with asyncio.timeout(5):
            await together.wait()


async def test_who_reads_how_far_and_who_has_read_what_can_be_asked(
    bus: Bus, channel: str, unique: Unique
) -> None:
    quick, slow = unique("quick"), unique("slow")
    hold, seen = asyncio.Event(), list[int]()
    waiting = Agent(slow)

    @waiting.on(f"{channel}.note")
    async def wait(body: int) -> None:
        await hold.wait()

    async with bus.serving(reader(quick, f"{channel}.note", seen), waiting):
        first = await bus.publish(f"{channel}.note", 0)
        second = await bus.publish(f"{channel}.note", 1)

        async def read() -> bool:
            receipts = await bus.channels.receipts(channel, second.message_id)
            return receipts[0].outcome == "processed"

        await eventually(read)
        by_entry = await bus.channels.receipts(channel, str(first.entry_id))
        assert [(each.agent, each.outcome) for each in by_entry] == [(quick, "processed"), (slow, None)]
        assert by_entry[0].delivered_ms and by_entry[0].read_ms and by_entry[1].delivered_ms
        assert by_entry[0].read_ms >= by_entry[0].delivered_ms and by_entry[1].read_ms is None
        found = await bus.channels.subscribers(channel)
        assert [(each.agent, each.behind, each.pending) for each in found] == [(quick, 0, 0), (slow, 1, 1)]
        with pytest.raises(BrokerRefused, match="reads"):
            await bus.channels.forget(channel, quick)
        hold.set()
    with pytest.raises(NoSuchMessage):
        await bus.channels.receipts(channel, "not-there")
    assert await bus.channels.forget(channel, quick) == 0
    assert [each.agent for each in await bus.channels.subscribers(channel)] == [slow]
    with pytest.raises(NoSuchCursor):
        await bus.channels.forget(channel, quick)


async def test_a_message_that_expired_is_passed_by_also_on_its_way_through_a_retry(
    bus: Bus, channel: str, unique: Unique
) -> None:
    runs: list[int] = []
    agent = Agent(unique("late"), retry=Retry(max_retries=3, retry_delay=0.4, shortest_delay=0.4))

    @agent.on(f"{channel}.note", start="beginning")
    async def fail(body: int) -> None:
        runs.append(body)
        raise RuntimeError("again")

    short = await bus.publish(f"{channel}.note", 0, ttl=0.001)
    log = channel_keys(bus.settings.prefix, channel).log

    async def expired() -> bool:
        seconds, micros = await bus.rooms.broker.execute("TIME")
        entered = int(str(short.entry_id).split("-")[0])
        return int(seconds) * 1000 + int(micros) // 1000 > entered + 1

    await eventually(expired)
    assert await bus.rooms.broker.execute("XLEN", log) == 1
    async with bus.serving(agent):
        await bus.publish(f"{channel}.note", 1, ttl=0.3)

        async def ended() -> bool:
            return await Look(bus, agent.name).count("expired") == 1

        await eventually(ended)
    assert runs == [1]
    assert (await counters(bus, channel, agent.name))["expired"] == "1"
