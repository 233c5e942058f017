"""Run one delivery: short named steps over one record, ending in one outcome.

open (decode) → guard (expired?) → route (whose type is it?) → call (arguments, timeout, middleware) →
answer (who asked) → outcome.
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

from agentbus.broker.inbox import FATAL_CRASHES
from agentbus.errors import (
    BrokerError,
    BrokerUnavailable,
    Defer,
    InvalidValue,
    LoopDetected,
    MalformedMessage,
    Reject,
)
from agentbus.message.address_policy import LOOP_LIMITS, Policy
from agentbus.message.backoff import Backoff
from agentbus.message.codec import decode
from agentbus.message.current import HANDLED
from agentbus.message.durations import milliseconds
from agentbus.message.message import Message
from agentbus.message.policy import Retry
from agentbus.message.reply_address import PartMark, ReplyAddress, Wants
from agentbus.receive.agent import Agent, CallNext, Middleware
from agentbus.receive.context import Context, Publish
from agentbus.receive.delivery import Answer, Delivery, ReceiptMark
from agentbus.receive.handlers import Handler
from agentbus.receive.outcome import (
    EXPIRED,
    PASSED_BY,
    PASSED_ON,
    PROCESSED,
    RELEASED,
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

    def open(self, delivery: Delivery) -> Outcome | None:
        """Decode and guard: return an outcome when the message is not to be handled."""
        try:
            if not delivery.entry.message:
                raise MalformedMessage("message", "is missing: the entry was not written by agentbus")
            delivery.message = decode(delivery.entry.message)
        except MalformedMessage as error:
            delivery.message = Message(
                {"message_id": f"entry-{delivery.entry_id}", "message_type": "unknown"}
            )
            return Outcome(Kind.DEAD, reason="malformed", detail=str(error))
        if delivery.source.is_channel:
            return self._open_from_channel(delivery)
        if "hops" in delivery.message.envelope and (came_round := self._came_round(delivery)):
            return came_round
        if delivery.state:
            expires = delivery.state.get("expires")
            if isinstance(expires, (int, float)) and expires <= self._around.server_ms():
                return EXPIRED
        return None

    def _came_round(self, delivery: Delivery) -> Outcome | None:
        """Publishing refuses it before; this is for what came by another door, by hand for example."""
        if delivery.message.channel is not None:
            # By way of a channel, whose own limit it was measured by.
            return None
        hops = delivery.message.hops
        policy = self._around.policy(delivery.address, delivery.message.message_type)
        most = LOOP_LIMITS[0] if policy.max_hops is None else policy.max_hops
        if not most or hops <= most:
            return None
        return Outcome(Kind.DEAD, reason="loop", detail=f"{hops} handlers in a row led to it; {most} may")

    def _open_from_channel(self, delivery: Delivery) -> Outcome | None:
        """Pass by what is not for this agent; guard against what expired and what kills its owners.

        An inbox does the latter two where the message lies. The log is everybody's: nobody ends it there.
        """
        message = delivery.message
        handler = self._agent.channel_handler(delivery.address, message.message_type)
        if handler is None and delivery.address not in self._agent.following:
            # Unsubscribed a moment ago: whoever subscribes again goes on with this one.
            return RELEASED
        # With recipients it stands here for the record: those who are named have it in their inboxes.
        if message.recipients or self._is_own(message, handler):
            # Not asked here, so nobody waits for an answer.
            delivery.answered = True
            return PROCESSED
        if handler is None:
            return PASSED_BY
        ttl = message.ttl
        if ttl is not None and delivery.entered_ms + ttl * 1000 <= self._around.server_ms():
            return EXPIRED
        if delivery.state.get("crashes", 0) >= FATAL_CRASHES:
            return Outcome(Kind.DEAD, reason="crashed", detail="its owners died while running it")
        return None

    def _handler(self, delivery: Delivery) -> Handler | None:
        """Return who handles a delivery; what came from a channel by way of the inbox is that channel's."""
        message = delivery.message
        if delivery.source.is_channel:
            return self._agent.channel_handler(delivery.address, message.message_type)
        if message.channel is not None and not message.recipients:
            found = self._agent.channel_handler(message.channel, message.message_type)
            if message.replayed is not None and self._agent.reads(message.channel):
                return None if found is None or self._is_own(message, found) else found
            if found is not None:
                return found
        return self._agent.handler_for(message.message_type)

    def _is_own(self, message: Message, handler: Handler | None) -> bool:
        """Return whether it is the agent's own, and its handler has not asked for those."""
        return message.from_agent == self._agent.name and not (handler and handler.include_own)

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
        handler = self._handler(delivery)
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

    # --- failures ---

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
        handler = self._handler(delivery)
        if handler is not None and handler.retry is not None:
            policy = handler.retry
        else:
            declared = self._around.policy(delivery.address, delivery.message.message_type)
            policy = declared.retry(self._agent.retry)
        return _with_options(policy, delivery.message)

    def at_most_once(self, delivery: Delivery) -> bool:
        """Whether the delivery is settled before it is handled."""
        required = delivery.message.delivery.get("require_ack")
        if required is not None:
            return required is False
        policy = self._around.policy(delivery.address, delivery.message.message_type)
        return policy.acknowledgement == "none"

    # --- the call ---

    async def _innermost(self, delivery: Delivery) -> Any:
        handler = self._handler(delivery)
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


def _in_thread(function: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return function(*positional, **named)
    except StopIteration as error:
        # A future cannot carry it: whoever awaits would wait for ever.
        raise RuntimeError("the handler raised StopIteration") from error


async def _around(middleware: Middleware, call_next: CallNext, delivery: Delivery) -> Any:
    return await middleware(delivery, call_next)
