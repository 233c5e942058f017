"""Spans: their names are the published ones, and nobody pays for them who does not collect them."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.util._once import Once

from agentbus.message.message import Message
from agentbus.tracing import names
from agentbus.tracing.spans import Tracing, current_trace, processing


def test_our_names_are_those_of_the_published_conventions() -> None:
    published = messaging_attributes
    assert names.SYSTEM == published.MESSAGING_SYSTEM
    assert names.DESTINATION == published.MESSAGING_DESTINATION_NAME
    assert names.OPERATION == published.MESSAGING_OPERATION_NAME
    assert names.OPERATION_TYPE == published.MESSAGING_OPERATION_TYPE
    assert names.GROUP == published.MESSAGING_CONSUMER_GROUP_NAME
    assert names.MESSAGE_ID == published.MESSAGING_MESSAGE_ID
    assert names.CONVERSATION_ID == published.MESSAGING_MESSAGE_CONVERSATION_ID
    assert names.BATCH_COUNT == published.MESSAGING_BATCH_MESSAGE_COUNT
    assert names.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert names.AGENT_NAME == gen_ai_attributes.GEN_AI_AGENT_NAME
    types = {kind.value for kind in published.MessagingOperationTypeValues}
    assert {names.SEND, names.PROCESS, names.SETTLE} <= types


@pytest.fixture
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API as it is before anybody has set up an SDK."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.mark.usefixtures("no_provider")
def test_an_sdk_that_is_set_up_later_is_noticed() -> None:
    tracing = Tracing()
    assert tracing.tracer is None
    trace.set_tracer_provider(TracerProvider())
    assert tracing.tracer is None
    tracing.look()
    assert tracing.tracer is not None


@pytest.mark.usefixtures("no_provider")
def test_a_provider_that_does_nothing_is_none() -> None:
    trace.set_tracer_provider(trace.NoOpTracerProvider())
    assert Tracing().tracer is None
    assert current_trace() == {}


@pytest.mark.parametrize("junk", [{"traceparent": 7}, {"traceparent": "x" * 9}, {"tracestate": []}, {}])
def test_a_trace_that_is_none_begins_a_new_one(junk: dict[str, object]) -> None:
    tracer = TracerProvider().get_tracer("test")
    message = Message({"message_id": "m", "message_type": "task", "trace": junk})
    with processing(tracer, message, "agent.a", "a", "inbox", 1) as span:
        assert span.parent is None  # type: ignore[attr-defined]
        assert span.links == ()  # type: ignore[attr-defined]
