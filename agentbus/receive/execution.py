"""Run one delivery: short named steps over one record, ending in one outcome.

open (decode, guard, route: see `Admission`) → call (arguments, timeout, middleware) → answer (who asked) →
outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from agentbus.errors import (
    BrokerError,
    BrokerUnavailable,
    Defer,
    MalformedMessage,
)
from agentbus.message.address_policy import Policy
from agentbus.message.backoff import Backoff
from agentbus.message.current import HANDLED
from agentbus.message.message import Message
from agentbus.message.reply_address import PartMark, ReplyAddress, Wants
from agentbus.receive.admission import Admission
from agentbus.receive.agent import Agent, CallNext, Middleware
from agentbus.receive.consequences import Consequences
from agentbus.receive.context import Context, Publish
from agentbus.receive.delivery import Answer, Delivery, ReceiptMark
from agentbus.receive.handlers import Handler
from agentbus.receive.outcome import (
    PASSED_BY,
    PASSED_ON,
    PROCESSED,
    Kind,
    Outcome,
    storable,
)
from agentbus.receive.parts import Parts, SendPart
from agentbus.receive.spans import DeliverySpans
from agentbus.tracing.spans import note_failure

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_logger = logging.getLogger("agentbus")
#: Bound once: it runs twice for each message.
_set_handled = HANDLED.set
#: A type without a handler is handed back this often while others serve the address …
MOST_BOUNCES = 2
#: … each time after this.
BOUNCE_DELAY_MS = 300
#: Seconds for which an answer is sent again while the broker is away: less than a stop waits for a handler.
_ANSWER_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a delivery's execution needs of the process around it."""

    publish: Publish
    answer: Answer
    send_part: SendPart
    #: The broker's clock as well as this process knows it, in ms.
    server_ms: Callable[[], float]
    #: How many instances serve an address now.
    siblings: Callable[[str], int]
    #: The declared policy of an address for a message type.
    policy: Callable[[str, str], Policy]
    #: What marks the receipts of a delivery; None where nobody keeps any.
    receipt: Callable[[Delivery], ReceiptMark | None] = lambda _delivery: None


class Execution:
    """Runs the deliveries of one agent."""

    def __init__(self, agent: Agent, around: Surroundings) -> None:
        self._agent = agent
        self._name = agent.name
        self._around = around
        self._threads: ThreadPoolExecutor | None = None
        admission = Admission(agent, around.server_ms, around.policy)
        #: Decodes and guards: returns an outcome when the message is not to be handled.
        self.open = admission.open
        self._handler_of = admission.handler_of
        consequences = Consequences(agent.retry, around.policy, admission.handler_of)
        #: Returns what follows from an exception.
        self.failed = consequences.failed
        #: Whether a delivery is settled before it is handled.
        self.at_most_once = consequences.at_most_once
        #: Opens the spans of what this agent handles.
        self.spans = DeliverySpans(agent.name)
        #: Nothing goes around the handlers.
        self._direct = not agent.middleware
        self._call: Callable[[Delivery], Awaitable[Any]] = self._innermost
        for middleware in reversed(agent.middleware):
            self._call = partial(_around, middleware, self._call)

    def close(self) -> None:
        """Let the threads end; one that is still running a handler ends with it."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def keep_receipt(self, delivery: Delivery) -> None:
        """Let the sender of a message to named agents know that this process has it."""
        delivery.receipt = self._around.receipt(delivery)

    async def run(self, delivery: Delivery) -> Outcome:
        """Return how the delivery ended; never raises, except when the delivery was revoked."""
        outcome = self.open(delivery)
        if outcome is None:
            if (delivery.source.at_most_once or delivery.message.delivery) and self.at_most_once(delivery):
                return await self._handle_once(delivery)
            if self.spans.collected:
                outcome = await self._handle_traced(delivery)
            else:
                outcome = await self._handle(delivery)
        # The handler may have settled by itself, and answered with it.
        if delivery.outcome is not None:
            return delivery.outcome
        if delivery.message.reply_to is not None:
            await self.answer(delivery, outcome)
        return outcome

    async def answer(self, delivery: Delivery, outcome: Outcome) -> None:
        """Tell an asker how its request ended, before it is settled; the answer may come twice."""
        if outcome.kind in PASSED_ON or delivery.message.reply_to is None or delivery.answered:
            return
        try:
            await self._answer(delivery, outcome)
        except BrokerError as error:
            # The work was done: an answer that cannot be sent must not make it be done again.
            _logger.warning("no answer to %s: %s", delivery.message.message_id, error)

    async def _answer(self, delivery: Delivery, outcome: Outcome) -> None:
        """Send an answer; again, for some seconds, when the broker was away for a moment."""
        # Neither is an answer of the handler's own.
        special = outcome is PASSED_BY or outcome.acknowledged
        failure = None if outcome.kind is Kind.PROCESSED and not special else outcome
        backoff, until = Backoff(), time.monotonic() + _ANSWER_WITHIN
        while True:
            try:
                await self._around.answer(delivery.message, outcome.reply, failure, _mark(delivery))
            except BrokerUnavailable:
                pause = backoff.next_pause()
                if delivery.revoked or time.monotonic() + pause > until:
                    raise
                await asyncio.sleep(pause)
            else:
                delivery.answered = True
                return

    async def _handle_traced(self, delivery: Delivery) -> Outcome:
        with self.spans.of(delivery) or nullcontext() as span:
            outcome = await self._handle(delivery, span)
            if span is not None and outcome.reason == "no_handler":
                note_failure(span, None, outcome.reason, outcome.detail)
            return outcome

    async def _handle(self, delivery: Delivery, span: Span | None = None) -> Outcome:
        message = delivery.message
        handler = self._handler_of(delivery)
        if handler is None:
            return self._without_handler(delivery)
        if delivery.receipt is not None:
            delivery.receipt.read()
        try:
            _set_handled((message, self._name))
            if handler.plain and self._direct:
                result = await handler.function(message.content)
            else:
                result = await self._call(delivery)
        except asyncio.CancelledError:
            runner = asyncio.current_task()
            if delivery.revoked or (runner is not None and runner.cancelling()):
                raise
            # Not this runner was cancelled but something the handler awaited. Passed on, it would end the
            # runner without a word, and after a few of these nobody would run anything.
            return self.failed(delivery, RuntimeError("something that the handler awaited was cancelled"))
        except Exception as error:
            if span is not None and not isinstance(error, Defer):
                note_failure(span, error, "failed", storable(error))
            if isinstance(error, MalformedMessage):
                return Outcome(Kind.DEAD, reason="invalid", detail=str(error))
            return self.failed(delivery, error)
        finally:
            _set_handled(None)
        return PROCESSED if result is None else Outcome(Kind.PROCESSED, reply=result)

    async def _handle_once(self, delivery: Delivery) -> Outcome:
        """Settle first, handle then: a crash or a failure loses the message, and it never runs twice."""
        await delivery.settle_first()
        outcome = await self._handle_traced(delivery)
        if outcome.kind is not Kind.PROCESSED:
            _logger.warning(
                "%s was handled without acknowledgement and failed: %s %s",
                delivery.message.message_id, outcome.reason, outcome.detail,
                extra={"action": "failed_unacknowledged", "address": delivery.address},
            )  # fmt: skip
        await self.answer(delivery, outcome)
        return PROCESSED

    def _without_handler(self, delivery: Delivery) -> Outcome:
        """Another instance, or a newer version, may have the handler: hand it back before giving up."""
        message_type = delivery.message.message_type
        channel = delivery.message.channel
        if delivery.message.replayed is not None and channel is not None and self._agent.reads(channel):
            # Of a channel that is replayed an agent gets what it would have read there.
            return PROCESSED
        bounces = int(delivery.state.get("bounces", 0))
        detail = f"agent {self._agent.name} has no handler for {message_type!r}"
        if bounces < MOST_BOUNCES and self._around.siblings(delivery.address) > 1:
            return Outcome(Kind.BOUNCED, BOUNCE_DELAY_MS, "no_handler", detail)
        return Outcome(Kind.DEAD, reason="no_handler", detail=detail)

    # --- the call ---

    async def _innermost(self, delivery: Delivery) -> Any:
        handler = self._handler_of(delivery)
        if handler is None:
            # Taken away while the message waited for middleware.
            raise Defer(BOUNCE_DELAY_MS / 1000)
        context: Context | None = None

        def make_context(of: Delivery) -> Context:
            nonlocal context
            context = self._context(of, handler)
            return context

        positional, named = handler.arguments(delivery, make_context)
        called = self._started(delivery, handler, positional, named)
        if handler.timeout is None:
            return await called
        try:
            async with asyncio.timeout(handler.timeout) as limit:
                return await called
        except TimeoutError:
            if not limit.expired():
                raise
            if context is not None:
                context.give_up()
            raise TimeoutError(f"the handler took longer than its timeout of {handler.timeout:g} s") from None

    def _started(
        self, delivery: Delivery, handler: Handler, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> Awaitable[Any]:
        if handler.is_generator:
            return self._yielded(delivery, handler.function(*positional, **named))
        if handler.is_async:
            called: Awaitable[Any] = handler.function(*positional, **named)
            return called
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._agent.concurrency, f"agentbus-{self._agent.name}")
        call = partial(contextvars.copy_context().run, _in_thread, handler.function, positional, named)
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _yielded(self, delivery: Delivery, parts: AsyncGenerator[Any, None]) -> list[Any] | None:
        """Send what a handler yields to an asker that reads parts; return all of it to one that does not."""
        async with contextlib.aclosing(parts):
            if delivery.message.reply_to is None:
                async for _ in parts:
                    pass
                return None
            if self._parts_of(delivery) is None:
                return [part async for part in parts]
            async for part in parts:
                await self._send_part(delivery, part)
            return None

    async def _send_part(self, delivery: Delivery, part: Any) -> bool:
        parts = self._parts_of(delivery)
        return parts is not None and not delivery.answered and await parts.send(part)

    def _parts_of(self, delivery: Delivery) -> Parts | None:
        """Return what sends and counts the parts of this run; None for an asker that wants none."""
        if delivery.parts is None:
            address = ReplyAddress.parse(delivery.message.reply_to)
            if address is not None and address.wants is Wants.PARTS:
                delivery.parts = Parts(delivery, self._around.send_part)
        return delivery.parts

    def _context(self, delivery: Delivery, handler: Handler) -> Context:
        deadline = None
        if handler.timeout is not None:
            deadline = datetime.now(UTC) + timedelta(seconds=handler.timeout)

        async def reply(message: Message, body: Any) -> None:
            await self._around.answer(message, body, None, _mark(delivery))
            delivery.answered = True

        send_part = partial(self._send_part, delivery)
        return Context(delivery, self._agent.state, self._around.publish, reply, deadline, send_part)


def _mark(delivery: Delivery) -> PartMark | None:
    return None if delivery.parts is None else delivery.parts.mark


def _in_thread(function: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return function(*positional, **named)
    except StopIteration as error:
        # A future cannot carry it: whoever awaits would wait for ever.
        raise RuntimeError("the handler raised StopIteration") from error


async def _around(middleware: Middleware, call_next: CallNext, delivery: Delivery) -> Any:
    return await middleware(delivery, call_next)
