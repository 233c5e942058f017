"""Spans: ``send``, ``process`` and ``settle``, and the trace context that travels with a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NoOpTracerProvider, ProxyTracerProvider, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentbus.message.current import current_message
from agentbus.message.message import Message
from agentbus.tracing import names

_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Whether anybody collects spans. Asking costs a tenth of a message, so it is asked now and then."""

    def __init__(self) -> None:
        #: What makes spans; None where nobody collects them.
        self.tracer: Tracer | None = None
        self.look()

    def look(self) -> None:
        """Notice an SDK that was set up meanwhile; one that is set up stays for the life of the process."""
        if self.tracer is None:
            provider = trace.get_tracer_provider()
            if not isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)):
                self.tracer = trace.get_tracer("agentbus")


def current_trace() -> dict[str, str]:
    """Return the current span as W3C ``traceparent`` and ``tracestate``; empty when there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier


@contextmanager
def sending(tracer: Tracer, topic: str, agent: str | None, conversation: str | None) -> Iterator[Span]:
    """Span the publishing of one message, or of a batch to one topic.

    Within a handler it is a part of what the handler does; elsewhere of whatever the application does.
    """
    attributes = {**_attributes(names.SEND, topic), **_known(agent, conversation)}
    parent = None
    cause = current_message()
    if cause is not None and not trace.get_current_span().get_span_context().is_valid:
        # The handler was begun before anybody collected spans: its message knows the trace all the same.
        parent = _context_of(cause)
    with (
        tracer.start_as_current_span(
            f"send {topic}", context=parent, kind=SpanKind.PRODUCER, attributes=attributes
        ) as span,
        _naming_errors(span),
    ):
        yield span


def sent(span: Span, message_id: str, conversation: str | None) -> None:
    """Say which message was sent; one that begins a conversation names it."""
    span.set_attribute(names.MESSAGE_ID, message_id)
    span.set_attribute(names.CONVERSATION_ID, conversation or message_id)


def sent_batch(span: Span, count: int) -> None:
    """Say how many messages were sent."""
    span.set_attribute(names.BATCH_COUNT, count)


@contextmanager
def processing(
    tracer: Tracer, message: Message, address: str, agent: str, group: str, attempt: int
) -> Iterator[Span]:
    """Span one attempt at one message: a child of what sent it, and linked to it."""
    topic = f"{address}.{message.message_type}"
    attributes = {
        **_attributes(names.PROCESS, topic),
        **_known(agent, message.correlation_id or message.message_id),
        names.MESSAGE_ID: message.message_id,
        names.GROUP: group,
        names.ATTEMPT: attempt,
    }
    with (
        tracer.start_as_current_span(
            f"process {topic}",
            context=_context_of(message),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=_links((message,)),
        ) as span,
        _naming_errors(span),
    ):
        yield span


@contextmanager
def settling(tracer: Tracer, messages: Iterable[Message], address: str, group: str) -> Iterator[None]:
    """Span the settlement of a batch, linked to what sent its messages; nothing where none has a trace."""
    links = _links(messages)
    if not links:
        yield
        return
    attributes = {
        **_attributes(names.SETTLE, address), names.GROUP: group, names.BATCH_COUNT: len(links),
    }  # fmt: skip
    with tracer.start_as_current_span(
        f"settle {address}", context=Context(), kind=SpanKind.CLIENT, attributes=attributes, links=links
    ):
        yield


def note_failure(span: Span, error: Exception | None, reason: str, detail: str) -> None:
    """Say that a message was not processed: what its handler raised, or why it was not handled."""
    if error is not None:
        span.record_exception(error)
    span.set_attribute(names.ERROR_TYPE, reason if error is None else type(error).__qualname__)
    span.set_status(trace.StatusCode.ERROR, detail or reason)


@contextmanager
def _naming_errors(span: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
        raise


def _attributes(operation: str, destination: str) -> dict[str, str | int]:
    return {
        names.SYSTEM: names.REDIS,
        names.DESTINATION: destination,
        names.OPERATION: operation,
        names.OPERATION_TYPE: operation,
    }


def _known(agent: str | None, conversation: str | None) -> dict[str, str | int]:
    found = {names.AGENT_NAME: agent, names.CONVERSATION_ID: conversation}
    return {name: value for name, value in found.items() if value is not None}


def _context_of(message: Message) -> Context:
    """Return the context that a message came with; what somebody wrote by hand and is none reads as empty."""
    carried: Mapping[str, object] = message.trace
    return _W3C.extract({name: value for name, value in carried.items() if isinstance(value, str)}, Context())


def _links(messages: Iterable[Message]) -> list[Link]:
    producers = (
        trace.get_current_span(_context_of(message)).get_span_context()
        for message in messages
        if message.trace
    )
    return [Link(producer) for producer in producers if producer.is_valid]
