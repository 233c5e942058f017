"""The way out: batches without anybody asking, and nothing lost or doubled by an uncertain reply.

All messages that callers hand in during one turn of the event loop travel to one address in one script
call. Per address one batch is in flight, frozen until it is answered, and repeated with the same positions
when the reply was lost; the server answers a repeated batch from its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

from agentbus.broker.channel import Channel
from agentbus.broker.connection import Broker
from agentbus.broker.durability import Durabilities
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import addresses
from agentbus.broker.wake import Announcer
from agentbus.errors import (
    BrokerUnavailable,
    LoopDetected,
    PublisherClosed,
    PublishError,
    PublishTimeout,
    WrongKeyType,
)
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.current import current_message, handling
from agentbus.message.durations import seconds
from agentbus.message.policy import Durability, check_durability
from agentbus.message.topics import Destination
from agentbus.send import loops
from agentbus.send.address_queue import AddressQueue
from agentbus.send.buffer import Buffer
from agentbus.send.envelope import AnyTopic, Outgoing, PublishOptions, Sender, compose
from agentbus.send.forwarding import Forwarding, NoForwarding
from agentbus.send.stored import Collector, Stored, Waiting
from agentbus.send.verdicts import timed_out
from agentbus.settings import PublisherSettings
from agentbus.tracing.spans import Tracing, current_trace, sending, sent, sent_batch

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

#: Seconds between looks for callers whose deadline has passed while a batch is stuck.
_EXPIRY_INTERVAL = 0.1
#: Seconds after which an address is noted again: the set may have been lost with a server.
_ADDRESS_INTERVAL = 60.0


class Publisher:
    """Sends messages. One per event loop and process; use it from any number of tasks.

    After a fork, or in another event loop, it begins anew: what the old one had buffered stays with it.
    """

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        sender: Sender,
        settings: PublisherSettings,
        events: Events,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._forwarding = forwarding or NoForwarding()
        self._broker = broker
        self._prefix = prefix
        self._sender = sender
        self._settings = settings
        self._events = events
        self._deadline = seconds(settings.deadline, "deadline")
        self._durabilities = Durabilities(broker, prefix, events)
        self._announcer = Announcer(broker, prefix, events)
        self._tracing = Tracing()
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._queues: dict[str, AddressQueue] = {}
        self._buffer = Buffer(self._settings.buffer_messages, self._settings.buffer_bytes)
        self._noted: dict[str, float] = {}
        self._expiry: asyncio.TimerHandle | None = None

    # --- what users call ---

    @property
    def sender(self) -> Sender:
        """In whose name is sent."""
        return self._sender

    def publish(
        self, topic: AnyTopic, body: Any, **options: Unpack[PublishOptions]
    ) -> Coroutine[Any, Any, Stored]:
        """Send one message and return what became of it.

        Raises `InvalidValue` for a bad field, `QueueFull`, `KeyConflict`, `NoSuchAgent` (``strict``),
        `LoopDetected` (within a handler), `DurabilityUnavailable`, `PublishRefused`, or `PublishTimeout` at
        the deadline; its ``uncertain`` tells whether the message may be stored all the same.
        """
        # Passed on, not awaited here: every further frame is resumed once for each message.
        return self.publish_as(self._sender, topic, body, options)

    def publish_as(
        self, sender: Sender, topic: AnyTopic, body: Any, options: PublishOptions
    ) -> Coroutine[Any, Any, Stored]:
        """Send one message in the name of another agent of this process; see `publish`."""
        tracer = self._tracing.tracer
        if tracer is None:
            return self._publish(sender, topic, body, options)
        return self._publish_traced(tracer, sender, topic, body, options)

    async def _publish_traced(
        self, tracer: Tracer, sender: Sender, topic: AnyTopic, body: Any, options: PublishOptions
    ) -> Stored:
        conversation = _conversation(options)
        with sending(tracer, str(topic), sender.agent, conversation) as span:
            stored = await self._publish(sender, topic, body, {"trace": current_trace(), **options})
            sent(span, stored.message_id, conversation)
            return stored

    async def _publish(self, sender: Sender, topic: AnyTopic, body: Any, options: PublishOptions) -> Stored:
        loop = self._at_home()
        outgoing = compose(sender, topic, body, options, self._settings.message_bytes)
        until = loop.time() + self.patience(options)
        if outgoing.durability is not None and outgoing.durability != "stream":
            await self._check_durability(outgoing.durability, until)
        if not self._buffer.has_room:
            await self._buffer.wait_room(until)
        future: asyncio.Future[Stored] = loop.create_future()
        self._enqueue(outgoing, until, Waiting(outgoing, until, future))
        try:
            return await future
        except LoopDetected as error:
            await self._tell_loop(sender, error)
            raise

    async def publish_many(
        self, topic: AnyTopic, bodies: Iterable[Any], **options: Unpack[PublishOptions]
    ) -> list[Stored | Exception]:
        """Send many messages to one topic; returns, in order, what became of each.

        A message that was refused has its error in the list instead of a result, so that one refusal does
        not hide what happened to the others. A bad field or body raises before that message is sent.
        """
        tracer = self._tracing.tracer
        if tracer is None:
            results = await self._publish_all(self._composed(topic, bodies, options), options)
        else:
            with sending(tracer, str(topic), self._sender.agent, _conversation(options)) as span:
                traced: PublishOptions = {"trace": current_trace(), **options}
                results = await self._publish_all(self._composed(topic, bodies, traced), traced)
                sent_batch(span, len(results))
        await self._tell_loops(results)
        return results

    @contextlib.contextmanager
    def spanned(
        self, sender: Sender, topic: str, message_id: str, options: PublishOptions
    ) -> Iterator[PublishOptions]:
        """Span a message that is sent in several steps; yields its options, with the trace it is part of."""
        tracer = self._tracing.tracer
        if tracer is None:
            yield options
            return
        conversation = _conversation(options)
        with sending(tracer, topic, sender.agent, conversation) as span:
            sent(span, message_id, conversation)
            yield {"trace": current_trace(), **options}

    def current_trace(self) -> dict[str, str]:
        """Return the trace that runs here, for what is sent in another way; empty where nobody collects."""
        return {} if self._tracing.tracer is None else current_trace()

    async def publish_each(
        self, composed: Iterable[Outgoing], options: PublishOptions
    ) -> list[Stored | Exception]:
        """Send messages that `compose` made, each to its address; see `publish_many`."""
        results = await self._publish_all(composed, options)
        await self._tell_loops(results)
        return results

    async def _tell_loops(self, results: Iterable[Stored | Exception]) -> None:
        if current_message() is not None:
            for error in [each for each in results if isinstance(each, LoopDetected)][:1]:
                await self._tell_loop(self._sender, error)

    def _composed(
        self, topic: AnyTopic, bodies: Iterable[Any], options: PublishOptions
    ) -> Iterator[Outgoing]:
        limit = self._settings.message_bytes
        return (compose(self._sender, topic, body, options, limit) for body in bodies)

    async def _publish_all(
        self, composed: Iterable[Outgoing], options: PublishOptions
    ) -> list[Stored | Exception]:
        loop = self._at_home()
        until = loop.time() + self.patience(options)
        if options.get("durability", "stream") != "stream":
            await self._check_durability(check_durability(options["durability"]), until)
        collector = Collector(loop)
        try:
            for number, outgoing in enumerate(composed, 1):
                if number % self._settings.batch_messages == 0:
                    # A batch leaves now and is stored while the next one is composed.
                    await asyncio.sleep(0)
                part = collector.add(outgoing, until)
                try:
                    if not self._buffer.has_room:
                        await self._buffer.wait_room(until)
                except PublishTimeout as error:
                    part.answer(error)
                else:
                    self._enqueue(outgoing, until, part)
        except asyncio.CancelledError:
            collector.abandon()
            raise
        except Exception:
            await collector.finish()
            raise
        return await collector.finish()

    async def close(self) -> None:
        """Send what is buffered, up to the deadline of each message, and refuse anything new."""
        self._closed = True
        if self._home == (os.getpid(), asyncio.get_running_loop()):
            for queue in list(self._queues.values()):
                await queue.wait_empty()
            await self._forwarding.close()
        if self._expiry is not None:
            self._expiry.cancel()
        await self._durabilities.close()

    # --- inside ---

    async def _tell_loop(self, sender: Sender, error: LoopDetected) -> None:
        """Make a loop visible: to whoever listens now, and in the log of errors to whoever looks later."""
        self._events.emit(
            "loop", error.address, str(error), hops=error.hops, correlation_id=error.correlation_id
        )
        body, options = loops.notice(sender, error)
        with handling(None), contextlib.suppress(PublishError):
            await self._publish(sender, loops.TOPIC, body, options)

    async def _check_durability(self, level: Durability, until: float) -> None:
        """Raise `DurabilityUnavailable` for a level the server cannot give; waits until it answers."""
        backoff = Backoff()
        try:
            async with asyncio.timeout_at(until):
                while True:
                    try:
                        return await self._durabilities.check(level)
                    except BrokerUnavailable:
                        await asyncio.sleep(backoff.next_pause())
        except TimeoutError:
            raise timed_out(uncertain=False) from None

    def patience(self, options: PublishOptions) -> float:
        """Return how many seconds a message with these options may wait for the broker."""
        if "deadline" not in options:
            return self._deadline
        # The record of a batch outlives the longest deadline; a longer one could be stored twice.
        return min(self._deadline, seconds(options["deadline"], "deadline"))

    def _at_home(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; begin anew when process or loop changed."""
        if self._closed:
            raise PublisherClosed
        loop = asyncio.get_running_loop()
        home = (os.getpid(), loop)
        if self._home != home:
            if self._home is not None:
                # Sockets shared with a parent process would mix two conversations.
                self._broker.forget_links()
                self._durabilities.forget_links()
                self._forwarding.begin_anew()
                self._begin()
            self._home = home
        return loop

    def _enqueue(self, outgoing: Outgoing, until: float, waiting: Waiting) -> None:
        address = outgoing.destination.address
        queue = self._queues.get(address)
        if queue is None:
            queue = self._queues[address] = self._open_queue(outgoing.destination)
        self._buffer.add(len(outgoing.text))
        queue.add(waiting)
        if self._expiry is None:
            self._tracing.look()
            self._expiry = asyncio.get_running_loop().call_later(_EXPIRY_INTERVAL, self._expire)

    def _open_queue(self, destination: Destination) -> AddressQueue:
        kind = Channel if destination.is_channel else Inbox
        return AddressQueue(
            kind(self._broker, self._prefix, destination.address),
            self._settings,
            self._buffer,
            self._durabilities,
            self._events,
            self._note_address,
            self._announcer,
            self._forwarding,
        )

    async def _note_address(self, address: str, again: bool) -> None:
        """Add an address to the set of those in use, before the first write to it."""
        now = asyncio.get_running_loop().time()
        if again or now - self._noted.get(address, -_ADDRESS_INTERVAL) >= _ADDRESS_INTERVAL:
            try:
                await self._broker.execute("SADD", addresses(self._prefix), address)
            except WrongKeyType as error:
                raise WrongKeyType(f"{addresses(self._prefix)} is not a set") from error
            self._noted[address] = now

    def _expire(self) -> None:
        """Give up for callers whose deadline has passed, however long the broker takes."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._tracing.look()
        for queue in self._queues.values():
            queue.expire(now)
        self._buffer.expire(now)
        busy = any(queue.busy for queue in self._queues.values()) or self._buffer.waited_for
        self._expiry = loop.call_later(_EXPIRY_INTERVAL, self._expire) if busy else None


def _conversation(options: PublishOptions) -> str | None:
    """Return the conversation that a message goes on with; None when it begins one."""
    cause = current_message()
    caused = None if cause is None else cause.correlation_id or cause.message_id
    return options.get("correlation_id") or caused
