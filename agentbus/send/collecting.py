"""A question to a channel, and the answers of everybody who reads it, until a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, overload

from agentbus.broker.channel import Channel
from agentbus.broker.connection import Broker
from agentbus.errors import ConfigurationError, InvalidTopic, InvalidValue, MalformedMessage, RequestTimeout
from agentbus.message.codec import validate_content
from agentbus.message.durations import Duration, readable, seconds
from agentbus.message.reply_address import Wants
from agentbus.message.topics import Topic, parse_topic
from agentbus.send.envelope import AnyTopic, MessageOptions, PublishOptions
from agentbus.send.publisher import Publisher
from agentbus.send.replies import ACKNOWLEDGEMENT, FAILURE, Replies, Reply


@dataclass(frozen=True, slots=True)
class Answer:
    """What one agent said."""

    agent: str
    #: What its handler returned; None for one that returned nothing, and for a failure.
    content: Any
    #: None: it answered. Else why it will not: ``rejected``, ``exhausted``, ``no_handler``, …
    failure: str | None
    #: The same for people.
    detail: str
    #: When it arrived, by the server's clock.
    at: datetime


@dataclass(frozen=True, slots=True)
class Answers(Sequence[Answer]):
    """What everybody said, in the order in which it arrived."""

    answers: tuple[Answer, ...]
    #: Who subscribed to the channel when the question was asked, without the asker.
    asked: tuple[str, ...]
    #: Those of them who said nothing before the deadline.
    missing: tuple[str, ...]
    #: Whether everything that was waited for came: the deadline cut nothing off.
    complete: bool

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Answer, ...]: ...
    def __getitem__(self, index: int | slice) -> Answer | tuple[Answer, ...]:
        return self.answers[index]

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """What is asked, and how long and for how many answers is waited."""

    topic: AnyTopic
    body: Any
    #: The type of an answer.
    reply: type[Any] | None
    #: Seconds.
    patience: float
    #: So many answers are enough; None: those of all who subscribe.
    expect: int | None
    options: MessageOptions

    @classmethod
    def of(
        cls,
        topic: AnyTopic,
        body: Any,
        reply: type[Any] | None,
        deadline: Duration,
        expect: int | None,
        options: MessageOptions,
    ) -> OpenQuestion:
        """Return the question after checking it; raises `InvalidValue` or `InvalidTopic`."""
        if not parse_topic(str(topic)).is_channel:
            raise InvalidTopic("topic", f"{str(topic)!r} is an inbox, where one answers; ask it with request")
        if expect is not None and (not isinstance(expect, int) or expect < 1):
            raise InvalidValue("expect", f"must be how many answers are enough, not {expect!r}")
        if isinstance(topic, Topic) and reply is None:
            reply = topic.reply
        return cls(topic, body, reply, seconds(deadline, "deadline"), expect, options)


class Collecting:
    """Asks when it is iterated over, and yields answers as they arrive, until all came or the deadline."""

    def __init__(
        self, broker: Broker, prefix: str, publisher: Publisher, replies: Replies, question: OpenQuestion
    ) -> None:
        self._channel = Channel(broker, prefix, parse_topic(str(question.topic)).address)
        self._publisher = publisher
        self._replies = replies
        self._question = question
        self._begun = False
        self._arrived: asyncio.Queue[Answer] = asyncio.Queue()
        self._answers: dict[str, Answer] = {}
        #: Who subscribed to the channel when the question was asked, without the asker.
        self.asked: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Those who were asked and have said nothing so far."""
        return tuple(name for name in self.asked if name not in self._answers)

    @property
    def complete(self) -> bool:
        """Whether everything that is waited for has come."""
        if self._question.expect is not None:
            return len(self._answers) >= self._question.expect
        return not self.missing

    async def all(self) -> Answers:
        """Wait for the end and return everything."""
        answers = tuple([answer async for answer in self])
        return Answers(answers, self.asked, self.missing, self.complete)

    async def __aiter__(self) -> AsyncIterator[Answer]:
        if self._begun:
            raise ConfigurationError("a question is asked once; call collecting() again to ask again")
        self._begun = True
        until = asyncio.get_running_loop().time() + self._question.patience
        reply_to = self._replies.expect(Wants.ALL, self._take)
        try:
            await self._ask(reply_to, until)
            while not self.complete or not self._arrived.empty():
                try:
                    async with asyncio.timeout_at(until):
                        answer = await self._arrived.get()
                except TimeoutError:
                    return
                yield answer
        finally:
            self._replies.forget(reply_to)

    async def _ask(self, reply_to: str, until: float) -> None:
        """Publish the question, which expires with the deadline unless ``ttl`` says otherwise."""
        question = self._question
        patience = question.patience
        sent: PublishOptions = {
            "ttl": max(patience, 0.001), **question.options, "reply_to": reply_to, "deadline": patience,
        }  # fmt: skip
        try:
            async with asyncio.timeout_at(until):
                await self._replies.start()
                # Read before the question is stored: whoever subscribes later need not see it.
                self.asked = tuple(
                    name for name in await self._channel.subscribers() if name != self._publisher.sender.agent
                )
                await self._publisher.publish(question.topic, question.body, **sent)
        except TimeoutError:
            raise RequestTimeout(
                f"{question.topic} could not be asked within {readable(patience)}: the broker did not answer"
            ) from None

    def _take(self, reply: Reply) -> bool:
        if self.complete and self._question.expect is not None:
            return False
        answer = self._answer(reply)
        # A second answer comes from a second delivery of the question: it says nothing new.
        if answer.agent not in self._answers:
            self._answers[answer.agent] = answer
            self._arrived.put_nowait(answer)
        return True

    def _answer(self, reply: Reply) -> Answer:
        message, at = reply.message, datetime.fromtimestamp(reply.at_ms / 1000, UTC)
        agent, content = message.from_agent or message.message_id, message.content
        if message.message_type == FAILURE:
            problem = content if isinstance(content, dict) else {}
            reason = str(problem.get("reason", "failed"))
            return Answer(agent, None, reason, str(problem.get("detail") or reason), at)
        # A handler that returns nothing has nothing to say: that is an answer of every type.
        says = content is not None and message.message_type != ACKNOWLEDGEMENT
        if self._question.reply is not None and says:
            try:
                content = validate_content(content, self._question.reply)
            except MalformedMessage as error:
                return Answer(agent, None, "malformed", str(error), at)
        return Answer(agent, content, None, "", at)
