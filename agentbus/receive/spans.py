"""The spans of one agent's deliveries, where somebody collects spans."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from agentbus.broker.keys import GROUP
from agentbus.message.message import Message
from agentbus.message.topics import is_channel
from agentbus.receive.delivery import Delivery
from agentbus.tracing.spans import Tracing, processing, settling

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class DeliverySpans:
    """Opens spans in the name of one agent."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._tracing = Tracing()
        #: Whether anybody does, as of the last settlement.
        self.collected = self._tracing.tracer is not None

    def of(self, delivery: Delivery) -> AbstractContextManager[Span] | None:
        """Return the span of one attempt; None where nobody collects spans."""
        tracer = self._tracing.tracer
        if tracer is None:
            return None
        group = self._group(delivery.address)
        return processing(tracer, delivery.message, delivery.address, self._agent, group, delivery.attempt)

    def settling(self, address: str, messages: Callable[[], list[Message]]) -> AbstractContextManager[None]:
        """Return the span of a settlement of many; nothing where nobody collects spans."""
        self._tracing.look()
        tracer = self._tracing.tracer
        if tracer is None:
            return nullcontext()
        self.collected = True
        return settling(tracer, messages(), address, self._group(address))

    def _group(self, address: str) -> str:
        return self._agent if is_channel(address) else GROUP
