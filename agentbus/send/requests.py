"""Requests and their answers. The reply address belongs to the process, not to the agent's name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import uuid_utils

from agentbus.broker.connection import Broker
from agentbus.broker.reply_log import send_reply
from agentbus.errors import InvalidValue, RequestFailed, RequestTimeout
from agentbus.events import Events
from agentbus.message.codec import encode, encode_body, validate_content
from agentbus.message.durations import Duration, readable, seconds
from agentbus.message.message import ENVELOPE_VERSION, Message
from agentbus.message.reply_address import PartMark, ReplyAddress, Wants
from agentbus.message.topics import Topic
from agentbus.send.envelope import AnyTopic, PublishOptions, Sender
from agentbus.send.publisher import Publisher
from agentbus.send.replies import ACKNOWLEDGEMENT, FAILURE, PART, REPLY, Replies, Reply

#: Fields of a request that its answer has too.
_CARRIED_BACK = ("session_id", "project", "trace")


class Requests:
    """Asks one, and waits for its answer."""

    def __init__(self, publisher: Publisher, replies: Replies) -> None:
        self._publisher = publisher
        self._replies = replies

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
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def take(reply: Reply) -> bool:
            if answer.done():
                return False
            answer.set_result(reply.message)
            return True

        reply_to = self._replies.expect(Wants.ONE, take)
        sent: PublishOptions = {"ttl": max(patience, 0.001), **options, "reply_to": reply_to}
        sent.setdefault("deadline", patience)
        try:
            async with asyncio.timeout(patience):
                await self._replies.start()
                stored = await self._publisher.publish(topic, body, **sent)
                message = await answer
        except TimeoutError:
            raise RequestTimeout(f"nobody answered {topic} within {readable(patience)}") from None
        finally:
            self._replies.forget(reply_to)
        if message.message_type == FAILURE:
            raise failure_of(message, f"request {stored.message_id} to {topic}")
        if message.message_type == ACKNOWLEDGEMENT:
            return None
        return message.content if reply is None else validate_content(message.content, reply)


def failure_of(message: Message, what: str) -> RequestFailed:
    """Return the error that a word of failure stands for."""
    problem = message.content if isinstance(message.content, dict) else {}
    reason = str(problem.get("reason", "failed"))
    return RequestFailed(f"{what}: {problem.get('detail') or reason}", reason=reason)


class Answering:
    """Answers requests in the name of one agent."""

    def __init__(
        self, broker: Broker, prefix: str, events: Events, sender: Sender, message_bytes: int
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._events = events
        self._sender = sender
        self._message_bytes = message_bytes

    async def acknowledge(self, request: Message, mark: PartMark | None = None) -> None:
        """Send the word that a request was read and needs no answer."""
        if request.reply_to is not None:
            await self._deliver_visibly(request, self._compose(request, ACKNOWLEDGEMENT, None, mark))

    async def send(
        self, request: Message, content: Any, failure: dict[str, str] | None, mark: PartMark | None = None
    ) -> None:
        """Send an answer, or the word that there will be none; visible when nobody listens any more.

        ``mark`` tells which parts came before it.
        """
        if request.reply_to is None:
            return
        kind = REPLY if failure is None else FAILURE
        try:
            text = self._compose(request, kind, content if failure is None else failure, mark)
        except InvalidValue as error:
            unsendable = {"reason": "invalid_reply", "detail": f"the answer cannot be sent: {error}"}
            text = self._compose(request, FAILURE, unsendable, mark)
        await self._deliver_visibly(request, text)

    async def _deliver_visibly(self, request: Message, text: bytes) -> None:
        if not await self._deliver(request, text):
            self._events.emit(
                "reply_undeliverable",
                f"agent.{request.from_agent}",
                f"{request.reply_to!r}, which asked with {request.message_id}, is gone or no reply address",
                message_id=request.message_id,
            )

    async def send_part(self, request: Message, content: Any, mark: PartMark) -> bool:
        """Send one part of an answer; False when the process that asked is gone.

        Raises `InvalidValue` for content that cannot be sent, and `BrokerError`.
        """
        return await self._deliver(request, self._compose(request, PART, content, mark))

    async def _deliver(self, request: Message, text: bytes) -> bool:
        address = ReplyAddress.parse(request.reply_to)
        return address is not None and await send_reply(self._broker, self._prefix, address.process, text)

    def _compose(self, request: Message, kind: str, content: Any, mark: PartMark | None) -> bytes:
        return encode(
            {
                "version": ENVELOPE_VERSION,
                "message_id": str(uuid_utils.uuid7()),
                "from_agent": self._sender.agent,
                "from_type": self._sender.type,
                "to_agent": request.from_agent,
                "message_type": kind,
                "timestamp": datetime.now(UTC),
                "correlation_id": request.correlation_id or request.message_id,
                "causation_id": request.message_id,
                **{name: request.envelope[name] for name in _CARRIED_BACK if request.envelope.get(name)},
                "reply_to": request.reply_to,
                **({} if mark is None else {"part": mark.to_field()}),
                "body": encode_body(content, None, None),
            },
            self._message_bytes,
        )
