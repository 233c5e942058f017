"""Spans of messages as an OpenTelemetry SDK collects them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util._once import Once

from agentbus import Agent, Bus, Message, Retry
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK for one test; what a process sets up once is put back."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def bus(broker: BrokerForTests, exported: InMemorySpanExporter) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="planner") as opened:
        yield opened


def spans(exported: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exported.get_finished_spans() if span.name == name]


def parent_of(span: ReadableSpan) -> Any:
    return None if span.parent is None else span.parent.span_id


async def test_a_conversation_is_one_trace(bus: Bus, exported: InMemorySpanExporter, unique: Unique) -> None:
    first, second = unique("first"), unique("second")
    a, b = Agent(first), Agent(second)

    @a.on("task")
    async def begin(body: Any) -> None:
        await bus.publish(f"agent.{second}.task", 2)

    @b.on("task")
    def end(body: Any) -> None: ...

    tracer = trace.get_tracer("application")
    async with bus.serving(a, b):
        with tracer.start_as_current_span("application"):
            stored = await bus.publish(f"agent.{first}.task", 1)
        await eventually(lambda: spans(exported, f"process agent.{second}.task"))
        await eventually(lambda: spans(exported, f"settle agent.{second}"))
    names = [f"{verb} agent.{name}.task" for name in (first, second) for verb in ("send", "process")]
    (application,), *found = [spans(exported, name) for name in ("application", *names)]
    line = [application, *(each for (each,) in found)]
    assert len({span.context.trace_id for span in line if span.context}) == 1
    assert [parent_of(span) for span in line] == [
        None, *(span.context.span_id for span in line[:-1] if span.context)
    ]  # fmt: skip
    sent, processed = line[1], line[2]
    assert (sent.kind, processed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert [link.context.span_id for link in processed.links] == [parent_of(processed)]
    common = {
        "messaging.system": "redis",
        "messaging.destination.name": f"agent.{first}.task",
        "messaging.message.id": stored.message_id,
        "messaging.message.conversation_id": stored.message_id,
    }
    assert dict(sent.attributes or {}) == {
        **common,
        "messaging.operation.name": "send", "messaging.operation.type": "send",
        "gen_ai.agent.name": "planner",
    }  # fmt: skip
    assert dict(processed.attributes or {}) == {
        **common,
        "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.consumer.group.name": "inbox", "gen_ai.agent.name": first, "agentbus.attempt": 1,
    }  # fmt: skip
    (settled,) = spans(exported, f"settle agent.{second}")
    assert (settled.kind, parent_of(settled)) == (SpanKind.CLIENT, None)
    assert [link.context.span_id for link in settled.links] == [parent_of(line[4])]


async def test_each_attempt_has_a_span_with_a_link_and_what_it_raised(
    bus: Bus, exported: InMemorySpanExporter, unique: Unique
) -> None:
    name = unique("failing")
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay="1ms", shortest_delay="1ms"))

    @agent.on("task")
    async def handle(body: Any) -> None:
        raise LookupError("nothing there")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1)
        await eventually(lambda: len(spans(exported, f"process agent.{name}.task")) == 2)
    (sent,) = spans(exported, f"send agent.{name}.task")
    for number, span in enumerate(spans(exported, f"process agent.{name}.task"), 1):
        assert span.context and sent.context and span.attributes
        assert span.context.trace_id == sent.context.trace_id
        assert [link.context.span_id for link in span.links] == [sent.context.span_id]
        assert (span.attributes["agentbus.attempt"], span.attributes["error.type"]) == (number, "LookupError")
        assert span.status.status_code is StatusCode.ERROR
        assert [event.name for event in span.events] == ["exception"]


async def test_a_batch_has_one_span_and_a_refused_message_an_error(
    bus: Bus, exported: InMemorySpanExporter, unique: Unique
) -> None:
    name = unique("batch")
    await bus.publish_many(f"agent.{name}.task", range(3))
    (sent,) = spans(exported, f"send agent.{name}.task")
    assert sent.attributes and sent.attributes["messaging.batch.message_count"] == 3
    with pytest.raises(ValueError, match="priority"):
        await bus.publish(f"agent.{name}.task", 1, priority="odd")  # type: ignore[typeddict-item]
    refused = spans(exported, f"send agent.{name}.task")[1]
    assert refused.attributes and refused.attributes["error.type"] == "InvalidValue"
    assert refused.status.status_code is StatusCode.ERROR


async def test_a_trace_of_ones_own_wins(bus: Bus, exported: InMemorySpanExporter, unique: Unique) -> None:
    name, mine = unique("own"), {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    await bus.publish(f"agent.{name}.task", 1, trace=mine)
    delivery = await bus.next(name, timeout="10s")
    assert delivery is not None
    message: Message = delivery.message
    async with delivery:
        pass
    assert dict(message.trace) == mine


async def test_what_several_get_and_what_two_say_is_part_of_the_trace(
    bus: Bus, exported: InMemorySpanExporter, unique: Unique
) -> None:
    ann, bob, talk = unique("ann"), unique("bob"), f"channel.{unique('talk')}"
    agents = [Agent(name) for name in (ann, bob)]
    for agent in agents:
        agent.on("note")(_nothing)
    agents[0].on("dm")(_nothing)
    async with bus.serving(*agents), bus.watch(f"agent.{ann}.live") as events:
        with trace.get_tracer("application").start_as_current_span("application") as application:
            await bus.send("note", 1, to=[ann, bob])
            said = await bus.send("note", 1, to=[bob], channel=talk)
            await bus.dm(ann, "hello")
            await bus.emit(f"agent.{ann}.live", 1)
        event = await anext(aiter(events))
        received = [f"process agent.{name}" for name in (f"{ann}.note", f"{ann}.dm", f"{bob}.note")]
        await eventually(lambda: sum(len(spans(exported, name)) for name in received) == 4)
    trace_id = application.get_span_context().trace_id
    assert f"{trace_id:032x}" in event.trace["traceparent"]
    conversation = ":".join(sorted((ann, "planner")))
    topics = ["agent.*.note", f"{talk}.note", f"dm:{conversation}.dm"]
    sent = [spans(exported, f"send {topic}")[0] for topic in topics]
    assert {parent_of(span) for span in sent} == {application.get_span_context().span_id}
    assert sent[1].attributes["messaging.message.id"] == said.message_id
    processed = [span for name in received for span in spans(exported, name)]
    assert {span.context.trace_id for span in processed} == {trace_id}
    assert {parent_of(span) for span in processed} == {span.context.span_id for span in sent}


async def _nothing() -> None: ...
