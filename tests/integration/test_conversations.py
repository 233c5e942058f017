"""A conversation traced: who sent what to whom, in causal order, with every end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import Agent, Bus, BusSettings, ConversationTrace, Message, Reject
from agentbus.archive.connection import Database
from agentbus.broker.inspection import wanted
from agentbus.broker.inspection.tracing import search_address
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.archiving import Archivist

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("talk"))) as opened:
        yield opened


def told(conversation: ConversationTrace) -> list[tuple[Any, ...]]:
    """Return sender, address, type, depth and ends of each message."""
    return [
        (
            turn.message.from_agent,
            *(place.address for place in turn.places),
            turn.message.message_type,
            turn.depth,
            *(place.outcome or place.status for place in turn.places),
        )
        for turn in conversation.turns
    ]


async def test_a_conversation_is_told_from_its_first_message_to_every_end(bus: Bus) -> None:
    writer, reviewer = Agent("writer"), Agent("reviewer")

    @writer.on("task")
    async def write(message: Message) -> None:
        await bus.publish("channel.design.note", "begun")
        await bus.publish("agent.reviewer.review", message.content)

    @reviewer.on("review")
    async def review(message: Message) -> None:
        await bus.publish("agent.writer.later", 1, delay="1h")
        await bus.publish("agent.nobody.task", 1)
        raise Reject("not good enough")

    async with bus.serving(writer, reviewer):
        first = await bus.publish("agent.writer.task", {"text": "x"})
        await bus.publish("agent.writer.unrelated", 1, metadata={"about": first.message_id})
        await eventually(lambda: Look(bus, "reviewer").dead_reasons())
        await eventually(lambda: _counted(Look(bus, "writer"), "processed", 1))
    conversation = await bus.trace_conversation(first.message_id)
    assert told(conversation) == [
        ("planner", "agent.writer", "task", 0, "processed"),
        ("planner", "channel.design", "note", 1, "logged"),
        ("planner", "agent.reviewer", "review", 1, "rejected"),
        ("planner", "agent.writer", "later", 2, "due"),
        ("planner", "agent.nobody", "task", 2, "waiting"),
    ]
    assert conversation.complete and conversation.archive == "none" and conversation.searched == 4
    part = await bus.trace_conversation(first.message_id, "reviewer")
    assert [turn.message.message_type for turn in part.turns] == ["review"]
    assert part.missing == (first.message_id,) and not part.complete
    assert (await bus.trace_conversation("nobody's")).turns == ()


async def _counted(look: Look, name: str, count: int) -> bool:
    return await look.count(name) >= count


async def test_what_was_retried_and_released_is_one_message_of_the_conversation(bus: Bus) -> None:
    await bus.publish("agent.worker.task", 1, correlation_id="c")
    delivery = await bus.next("worker", timeout="10s")
    assert delivery is not None
    await delivery.release()
    again = await bus.next("worker", timeout="10s")
    assert again is not None
    (turn,) = (await bus.trace_conversation("c")).turns
    assert [place.status for place in turn.places if place.status != "ended"] == ["in_flight"]
    await again.ack()
    trace = await bus.trace(again.message.message_id, "worker")
    assert [step.outcome for step in trace.steps] == ["released", "processed"]


async def test_a_dead_letter_that_somebody_took_care_of_is_still_found(bus: Bus) -> None:
    agent = Agent("worker")

    @agent.on("task")
    async def handle(body: Any) -> None:
        raise Reject("no")

    async with bus.serving(agent):
        sent = await bus.publish("agent.worker.task", 1)
        (letter,) = await eventually(lambda: bus.dead_letters.list())
    await bus.dead_letters.resolve(letter.id, "done by hand")
    trace = await bus.trace(sent.message_id)
    (place,) = trace.places
    assert (place.status, place.outcome, place.consumer) == ("ended", "resolved", "planner")
    assert place.detail == "done by hand (rejected)"
    assert [step.outcome for step in trace.steps] == ["dead", "resolved"]
    assert told(await bus.trace_conversation(sent.message_id)) == [
        ("planner", "agent.worker", "task", 0, "resolved")
    ]


async def test_a_long_conversation_is_shown_up_to_a_limit_and_says_so(bus: Bus) -> None:
    await bus.publish_many("agent.many.task", range(30), correlation_id="c")
    search = wanted.Conversation("c", 20)
    found = await search_address(bus.rooms.broker, bus.settings.prefix, "agent.many", search)
    assert (len(found), search.more) == (20, True)


async def test_what_has_left_redis_comes_from_the_archive(
    broker: BrokerForTests, unique: Unique, postgres_dsn: str
) -> None:
    settings = BusSettings(prefix=unique("talk"), archive=postgres_dsn)
    async with Bus(broker.url, agent="planner", settings=settings) as bus:
        database = Database(postgres_dsn)
        archivist = await Archivist(bus, database).open()
        await bus.publish("agent.worker.task", "gone", correlation_id="c")
        delivery = await bus.next("worker", timeout="10s")
        assert delivery is not None
        async with delivery:
            await bus.publish("agent.other.task", "here")
        await archivist.records("agent.worker")
        both = await bus.trace_conversation("c")
        keys = Look(bus, "worker").keys
        await bus.rooms.broker.execute("DEL", *keys.sources, keys.outcomes)
        archived = await bus.trace_conversation("c")
        await database.close()
    assert (
        told(archived)
        == told(both)
        == [
            ("planner", "agent.worker", "task", 0, "processed"),
            ("planner", "agent.other", "task", 1, "waiting"),
        ]
    )
    assert archived.archive == "searched" and archived.complete
    away = BusSettings(prefix=settings.prefix, archive="postgresql://localhost:1/nowhere")
    async with Bus(broker.url, agent="planner", settings=away) as bus:
        rest = await bus.trace_conversation("c")
    assert rest.archive == "unavailable" and not rest.complete
    assert [turn.message.content for turn in rest.turns] == ["here"]
