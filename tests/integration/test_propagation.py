"""What a handler sends belongs to the conversation of what it handles, whoever sends it and from where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import Agent, Bus, Context, Message, Retry
from agentbus.broker.keys import inbox_keys
from agentbus.message.current import current_message
from agentbus.testing import BrokerForTests

Unique = Callable[[str], str]
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="planner") as opened:
        yield opened


async def received(bus: Bus, name: str) -> Message:
    delivery = await bus.next(name, timeout="10s")
    assert delivery is not None
    await delivery.ack()
    return delivery.message


def belongs_to(message: Message, cause: Message) -> None:
    """Check that a message continues a conversation with everything that travels by itself."""
    assert message.causation_id == cause.message_id
    assert message.correlation_id == (cause.correlation_id or cause.message_id)
    assert (message.session_id, message.project) == (cause.session_id, cause.project)
    assert (dict(message.trace), message.hops) == (dict(cause.trace), cause.hops + 1)


async def test_whatever_a_handler_calls_continues_the_conversation(bus: Bus, unique: Unique) -> None:
    name, onward = unique("first"), unique("next")
    agent, handled, loop = Agent(name), [], asyncio.get_running_loop()

    async def helper() -> None:
        await bus.publish(f"agent.{onward}.helper", 1)

    @agent.on("plain")
    async def plain(body: Any) -> None:
        await helper()
        await asyncio.create_task(helper())
        await bus.publish_many(f"agent.{onward}.many", [1])

    @agent.on("asked")
    async def asked(message: Message, context: Context) -> None:
        handled.append(message)
        await context.publish(f"agent.{onward}.context", 1, delay="10ms")

    @agent.on("thread")
    def thread(message: Message) -> None:
        handled.append(message)
        asyncio.run_coroutine_threadsafe(helper(), loop).result()

    given: Any = {"session_id": "s", "project": "p", "trace": TRACE}
    async with bus.serving(agent):
        for kind, count in (("plain", 3), ("asked", 1), ("thread", 1)):
            sent = await bus.publish(f"agent.{name}.{kind}", 1, **given)
            for _ in range(count):
                message = await received(bus, onward)
                assert message.causation_id == message.correlation_id == sent.message_id
                assert (message.session_id, message.project, message.hops) == ("s", "p", 1)
                assert dict(message.trace) == TRACE
            for cause in handled[:1]:
                belongs_to(message, cause)
                handled.clear()
    assert current_message() is None
    await bus.publish(f"agent.{onward}.own", 1)
    assert (await received(bus, onward)).causation_id is None


async def test_options_win_over_what_travels_by_itself(bus: Bus, unique: Unique) -> None:
    name, onward = unique("first"), unique("next")
    agent = Agent(name)

    @agent.on("task")
    async def handle(body: Any) -> None:
        trace = {"traceparent": "mine"}
        await bus.publish(f"agent.{onward}.a", 1, correlation_id="mine", project="other", trace=trace)

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1, correlation_id="c", project="p", trace=TRACE)
        message = await received(bus, onward)
    assert (message.correlation_id, message.project, message.hops) == ("mine", "other", 1)
    assert dict(message.trace) == {"traceparent": "mine"}


async def test_a_retry_and_a_takeover_change_nothing_that_travels(bus: Bus, unique: Unique) -> None:
    name, onward = unique("first"), unique("next")
    agent, seen = Agent(name, retry=Retry(max_retries=1, retry_delay="1ms", shortest_delay="1ms")), []

    @agent.on("task")
    async def handle(message: Message) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise ValueError("once")
        await bus.publish(f"agent.{onward}.a", 1)

    with_hops = {"trace": TRACE, "extra": {"mine": 1}}
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1, **with_hops)  # type: ignore[arg-type]
        message = await received(bus, onward)
    first, second = seen
    assert first.envelope == second.envelope
    belongs_to(message, second)


async def test_an_answer_and_a_request_within_a_handler_belong_to_the_conversation(
    bus: Bus, unique: Unique
) -> None:
    front, back, replies = unique("front"), unique("back"), []
    fronts, backs = Agent(front), Agent(back)

    @fronts.on("question")
    async def ask(body: Any) -> Any:
        return await bus.request(f"agent.{back}.question", body)

    @backs.on("question")
    async def answer(message: Message) -> Any:
        replies.append(message)
        return [message.correlation_id, message.session_id, message.hops, dict(message.trace)]

    async with bus.serving(fronts, backs):
        found = await bus.request(
            f"agent.{front}.question", 1, correlation_id="c", session_id="s", trace=TRACE
        )
    assert found == ["c", "s", 1, TRACE]


async def test_what_is_sent_while_a_pulled_delivery_is_in_hand_is_caused_by_it(
    bus: Bus, unique: Unique
) -> None:
    name, onward = unique("pulled"), unique("next")
    await bus.publish(f"agent.{name}.task", 1, correlation_id="c")
    delivery = await bus.next(name, timeout="10s")
    assert delivery is not None
    async with delivery:
        await bus.publish(f"agent.{onward}.task", 1)
    belongs_to(await received(bus, onward), delivery.message)
    assert current_message() is None


async def test_what_a_handler_schedules_begins_conversations_of_its_own(bus: Bus, unique: Unique) -> None:
    name, onward, done = unique("first"), unique("next"), asyncio.Event()
    agent = Agent(name)

    @agent.on("task")
    async def handle(body: Any) -> None:
        await bus.schedules.add(f"agent.{onward}.tick", 1, "interval:3600")
        done.set()

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1, correlation_id="c")
        await asyncio.wait_for(done.wait(), 10)
    schedules = inbox_keys(bus.settings.prefix, f"agent.{onward}").schedules
    stored = await bus.rooms.broker.execute("HVALS", schedules)
    assert b"interval:3600" in b"".join(stored)
    assert b"hops" not in b"".join(stored) and b'"correlation_id"' not in b"".join(stored)
    for schedule in await bus.schedules.list():
        if onward in schedule.topic:
            await bus.schedules.cancel(schedule.id)


async def test_a_channels_handler_and_its_retry_by_way_of_the_inbox_continue_the_conversation(
    bus: Bus, unique: Unique
) -> None:
    channel, onward = f"channel.{unique('design')}", unique("next")
    agent = Agent(unique("reader"), retry=Retry(max_retries=1, retry_delay="1ms", shortest_delay="1ms"))
    seen: list[Message] = []

    @agent.on(f"{channel}.note")
    async def read(message: Message) -> None:
        seen.append(message)
        if len(seen) == 1:
            raise ValueError("once")
        await bus.publish(f"agent.{onward}.task", 1)

    async with bus.serving(agent):
        await bus.publish(f"{channel}.note", 1, correlation_id="c", trace=TRACE)
        message = await received(bus, onward)
    assert seen[0].envelope == seen[1].envelope
    belongs_to(message, seen[1])


async def test_a_live_event_and_the_copy_of_a_binding_belong_to_the_conversation(
    bus: Bus, unique: Unique
) -> None:
    name, other = unique("first"), unique("bound")
    agent, bound, copies = Agent(name), Agent(other), asyncio.Queue[Message]()

    @agent.on("task")
    async def handle(body: Any) -> None:
        await bus.emit(f"agent.{name}.progress", "half")
        await bus.publish(f"channel.{name}.note", "done")

    @bound.on("note")
    async def copied(message: Message) -> None:
        copies.put_nowait(message)

    bound.bind(f"channel.{name}.note")
    async with bus.serving(agent, bound), bus.watch(f"agent.{name}.progress") as events:
        sent = await bus.publish(f"agent.{name}.task", 1, correlation_id="c", trace=TRACE)
        async with asyncio.timeout(10):
            event = await anext(aiter(events))
            copy = await copies.get()
    assert isinstance(event, Message)
    for message in (event, copy):
        assert (message.correlation_id, message.causation_id, message.hops) == ("c", sent.message_id, 1)
        assert dict(message.trace) == TRACE
