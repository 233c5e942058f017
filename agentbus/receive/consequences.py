"""What follows when a handler fails, and when a message is settled: the policies, put together.

The message's own options win, then the handler's, the topic's, the address's, the agent's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agentbus.errors import Defer, InvalidValue, LoopDetected, Reject
from agentbus.message.address_policy import Policy
from agentbus.message.durations import milliseconds
from agentbus.message.message import Message
from agentbus.message.policy import Retry
from agentbus.receive.delivery import Delivery
from agentbus.receive.handlers import Handler
from agentbus.receive.outcome import Kind, Outcome, storable

_logger = logging.getLogger("agentbus")


class Consequences:
    """Decides for one agent; no effects."""

    def __init__(
        self,
        usual: Retry,
        policy: Callable[[str, str], Policy],
        handler_of: Callable[[Delivery], Handler | None],
    ) -> None:
        """``usual`` is the agent's own retry policy, ``policy`` what was declared for an address and type."""
        self._usual = usual
        self._policy = policy
        self._handler_of = handler_of

    def failed(self, delivery: Delivery, error: Exception) -> Outcome:
        """Return what follows from an exception: a decision, no effect."""
        if isinstance(error, Reject):
            most = self._retry_policy(delivery).max_retries
            return Outcome(Kind.DEAD, reason="rejected", detail=storable(error.reason), max_retries=most)
        if isinstance(error, LoopDetected):
            # Another attempt would send the same again.
            return Outcome(Kind.DEAD, reason="loop", detail=storable(error))
        if isinstance(error, Defer):
            try:
                return Outcome(Kind.DEFERRED, milliseconds(error.delay, "delay"), "deferred")  # type: ignore[arg-type]
            except InvalidValue as problem:
                error = problem
        policy = self._retry_policy(delivery)
        detail = storable(f"{type(error).__name__}: {storable(error)}")
        failures = delivery.attempt
        if failures <= policy.max_retries:
            delay = round(policy.delay_seconds(failures) * 1000)
            return Outcome(Kind.RETRIED, delay, "failed", detail, max_retries=policy.max_retries)
        kind = Kind.DEAD if policy.when_exhausted == "dead" else Kind.DISCARDED
        return Outcome(kind, 0, "exhausted", detail, max_retries=policy.max_retries)

    def _retry_policy(self, delivery: Delivery) -> Retry:
        """The message's own options win, then the handler's, the topic's, the address's, the agent's."""
        handler = self._handler_of(delivery)
        if handler is not None and handler.retry is not None:
            policy = handler.retry
        else:
            declared = self._policy(delivery.address, delivery.message.message_type)
            policy = declared.retry(self._usual)
        return _with_options(policy, delivery.message)

    def at_most_once(self, delivery: Delivery) -> bool:
        """Whether the delivery is settled before it is handled."""
        required = delivery.message.delivery.get("require_ack")
        if required is not None:
            return required is False
        policy = self._policy(delivery.address, delivery.message.message_type)
        return policy.acknowledgement == "none"


def _with_options(policy: Retry, message: Message) -> Retry:
    """Return the policy with what the sender asked for; a value that makes no sense is ignored."""
    options = message.delivery
    if not options:
        return policy
    try:
        return Retry(
            max_retries=options.get("max_retries", policy.max_retries),
            retry_delay=options.get("retry_delay", policy.retry_delay),
            longest_delay=policy.longest_delay,
            shortest_delay=policy.shortest_delay,
            when_exhausted=options.get("when_exhausted", policy.when_exhausted),
        )
    except ValueError as error:
        _logger.warning("delivery options of %s are ignored: %s", message.message_id, error)
        return policy
