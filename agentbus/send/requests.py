"""Requests and their answers. The reply address belongs to the process, not to the agent's name."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Any

import uuid_utils

from agentbus.broker.connection import Broker
from agentbus.broker.reply_log import ReplyLog, process_of, send_reply
from agentbus.errors import (
    BrokerError,
    BrokerUnavailable,
    InvalidValue,
    MalformedMessage,
    RequestFailed,
    RequestTimeout,
)
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.codec import decode, encode, encode_body, validate_content
from agentbus.message.durations import Duration, readable, seconds
from agentbus.message.message import ENVELOPE_VERSION, Message
from agentbus.message.topics import Topic
from agentbus.send.envelope import AnyTopic, PublishOptions, Sender
from agentbus.send.publisher import Publisher
from agentbus.send.stored import Stored

#: The type of an answer, and of the word that there will be none.
REPLY, FAILURE = "reply", "failure"
#: The word that the question was read and needs no answer; it has no content.
ACKNOWLEDGEMENT = "acknowledgement"
_RENEW_INTERVAL = 60.0


class Requests:
    """Asks, and waits for answers."""

    def __init__(self, broker: Broker, prefix: str, publisher: Publisher, events: Events) -> None:
        self._publisher = publisher
        self._events = events
        self._process = secrets.token_hex(8)
        self._log = ReplyLog(broker, prefix, self._process)
        self._number = 0
        self._open: dict[str, asyncio.Future[Message]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()

    async def request(
        self,
        topic: AnyTopic,
        body: Any,
        reply: type[Any] | None,
        timeout: Duration,
        options: PublishOptions,
    ) -> Any:
        """Send a request and return the content of its answer, as ``reply`` if given.

        The message expires with the timeout unless ``ttl`` says otherwise: nobody would hear the answer.
        None when whoever took it acknowledged it without an answer. Raises `RequestTimeout`,
        `RequestFailed`, or what `Publisher.publish` raises.
        """
        patience = seconds(timeout, "timeout")
        if isinstance(topic, Topic) and reply is None:
            reply = topic.reply
        self._number += 1
        reply_to = f"reply.{self._process}.{self._number}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._open[reply_to] = answer
        sent: PublishOptions = {"ttl": max(patience, 0.001), **options, "reply_to": reply_to}
        sent.setdefault("deadline", patience)
        try:
            async with asyncio.timeout(patience):
                await self._start()
                stored = await self._publisher.publish(topic, body, **sent)
                message = await answer
        except TimeoutError:
            raise RequestTimeout(f"nobody answered {topic} within {readable(patience)}") from None
        finally:
            del self._open[reply_to]
        if message.message_type == FAILURE:
            raise _failure(message, topic, stored)
        if message.message_type == ACKNOWLEDGEMENT:
            return None
        return message.content if reply is None else validate_content(message.content, reply)

    async def close(self) -> None:
        """Stop listening and remove the reply address."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._tasks:
            with contextlib.suppress(BrokerError):
                await self._log.close()

    # --- listening ---

    async def _start(self) -> None:
        """Make the reply address before the first request names it, as soon as the broker answers."""
        backoff = Backoff()
        async with self._starting:
            while not self._tasks:
                try:
                    await self._log.renew()
                except BrokerUnavailable:
                    await asyncio.sleep(backoff.next_pause())
                    continue
                self._tasks = [
                    asyncio.create_task(self._listen(), name="agentbus replies"),
                    asyncio.create_task(self._renew(), name="agentbus reply address"),
                ]

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_INTERVAL)
            with contextlib.suppress(BrokerError):
                await self._log.renew()

    async def _listen(self) -> None:
        backoff = Backoff()
        while True:
            try:
                for text in await self._log.read():
                    self._take(text)
                backoff.reset()
            except BrokerError:
                await self._log.reconnect()
                await asyncio.sleep(backoff.next_pause())
                with contextlib.suppress(BrokerError):
                    # A server that lost its data lost the address too.
                    await self._log.renew()

    def _take(self, text: bytes) -> None:
        try:
            message = decode(text)
        except MalformedMessage as error:
            self._events.emit("late_reply", "", f"an answer that is no message: {error}")
            return
        waiting = self._open.get(str(message.envelope.get("reply_to")))
        if waiting is None or waiting.done():
            self._events.emit(
                "late_reply",
                f"agent.{message.from_agent}",
                f"the answer to {message.causation_id} came after its request had given up",
                message_id=message.causation_id,
            )
            return
        waiting.set_result(message)


def _failure(message: Message, topic: AnyTopic, stored: Stored) -> RequestFailed:
    problem = message.content if isinstance(message.content, dict) else {}
    reason = str(problem.get("reason", "failed"))
    return RequestFailed(
        f"request {stored.message_id} to {topic}: {problem.get('detail') or reason}", reason=reason
    )


class Answers:
    """Answers requests in the name of one agent."""

    def __init__(
        self, broker: Broker, prefix: str, events: Events, sender: Sender, message_bytes: int
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._events = events
        self._sender = sender
        self._message_bytes = message_bytes

    async def acknowledge(self, request: Message) -> None:
        """Send the word that a request was read and needs no answer."""
        await self.send(request, None, None, ACKNOWLEDGEMENT)

    async def send(
        self, request: Message, content: Any, failure: dict[str, str] | None, kind: str = REPLY
    ) -> None:
        """Send an answer, or the word that there will be none; visible when nobody listens any more."""
        reply_to = request.reply_to
        if reply_to is None:
            return
        try:
            text = self._compose(request, content, failure, kind)
        except InvalidValue as error:
            unsendable = {"reason": "invalid_reply", "detail": f"the answer cannot be sent: {error}"}
            text = self._compose(request, None, unsendable)
        process = process_of(reply_to)
        if process is None or not await send_reply(self._broker, self._prefix, process, text):
            self._events.emit(
                "reply_undeliverable",
                f"agent.{request.from_agent}",
                f"{reply_to!r}, which asked with {request.message_id}, is gone or no reply address",
                message_id=request.message_id,
            )

    def _compose(
        self, request: Message, content: Any, failure: dict[str, str] | None, kind: str = REPLY
    ) -> bytes:
        return encode(
            {
                "version": ENVELOPE_VERSION,
                "message_id": str(uuid_utils.uuid7()),
                "from_agent": self._sender.agent,
                "from_type": self._sender.type,
                "to_agent": request.from_agent,
                "message_type": kind if failure is None else FAILURE,
                "timestamp": datetime.now(UTC),
                "correlation_id": request.correlation_id or request.message_id,
                "causation_id": request.message_id,
                "reply_to": request.reply_to,
                "body": encode_body(content if failure is None else failure, None, None),
            },
            self._message_bytes,
        )
