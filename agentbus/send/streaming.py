"""A request whose answer comes in parts: each in its place, none twice, none missing without a word."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from agentbus.errors import PartsMissing, RequestTimeout, StreamRestarted
from agentbus.message.codec import validate_content
from agentbus.message.durations import Duration, readable, seconds
from agentbus.message.reply_address import PartMark, Wants
from agentbus.send.envelope import AnyTopic, PublishOptions
from agentbus.send.publisher import Publisher
from agentbus.send.replies import FAILURE, PART, Replies, Reply
from agentbus.send.requests import failure_of

#: Parts that wait for a reader who is slower than the agent; as many as the reply log keeps.
_MOST_HELD = 10_000


@dataclass(frozen=True, slots=True)
class Restarted:
    """The handler began anew: what was yielded before this mark is not part of the answer."""

    #: The attempt that begins; the same as before when another owner took the work over.
    attempt: int
    #: How many parts of the former run were yielded.
    parts: int


class Assembly:
    """Puts the parts of an answer in order. Decides, and does nothing."""

    def __init__(self) -> None:
        self._run: str | None = None
        self._left: set[str] = set()
        self._next = 0

    def begins_anew(self, mark: PartMark) -> Restarted | None:
        """Return a mark when this is the first of another run and parts of the former were yielded."""
        if mark.run == self._run or mark.run in self._left:
            return None
        former, parts = self._run, self._next
        if former is not None:
            self._left.add(former)
        self._run, self._next = mark.run, 0
        return Restarted(mark.attempt, parts) if parts else None

    def is_next(self, mark: PartMark, *, ends: bool) -> bool:
        """Whether this is what comes next; False for what came before. Raises `PartsMissing` for a gap."""
        if mark.run != self._run or mark.number < self._next:
            # Of a run that was left behind, or sent again because its first sending was not answered.
            return False
        if mark.number != self._next:
            first, last = self._next, mark.number - 1
            which = f"part {first}" if first == last else f"parts {first} to {last}"
            raise PartsMissing(f"lost on the way: {which} of the answer", first=first, last=last)
        self._next += not ends
        return True


class _Arrivals:
    """What has arrived and was not read yet."""

    def __init__(self) -> None:
        self._replies: deque[Reply] = deque()
        self._any = asyncio.Event()

    def take(self, reply: Reply) -> bool:
        """Take a reply; one part too many is dropped here, and missed when its turn comes."""
        if reply.message.message_type != PART or len(self._replies) < _MOST_HELD:
            self._replies.append(reply)
            self._any.set()
        return True

    async def next(self) -> Reply:
        """Wait for the next reply."""
        while not self._replies:
            self._any.clear()
            await self._any.wait()
        return self._replies.popleft()


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream is read."""

    #: Seconds for the whole of it.
    patience: float
    #: Seconds until the first part, and between two; None: no limit of its own.
    idle: float | None
    #: The type of a part.
    part: type[Any] | None
    #: Whether a handler that begins anew is told by a mark among the parts, not by an error.
    marks: bool

    @classmethod
    def of(
        cls, timeout: Duration, idle_timeout: Duration | None, part: type[Any] | None, marks: bool
    ) -> StreamOptions:
        """Return the options after checking them; raises `InvalidValue`."""
        idle = None if idle_timeout is None else seconds(idle_timeout, "idle_timeout")
        return cls(seconds(timeout, "timeout"), idle, part, marks)


class Streams:
    """Asks one, and yields the parts of its answer."""

    def __init__(self, publisher: Publisher, replies: Replies) -> None:
        self._publisher = publisher
        self._replies = replies

    async def stream(
        self, topic: AnyTopic, body: Any, how: StreamOptions, options: PublishOptions
    ) -> AsyncGenerator[Any, None]:
        """Send a request and yield the parts of its answer as they come; see `Bus.stream`."""
        arrivals = _Arrivals()
        reply_to = self._replies.expect(Wants.PARTS, arrivals.take)
        sent: PublishOptions = {"ttl": max(how.patience, 0.001), **options, "reply_to": reply_to}
        sent.setdefault("deadline", how.patience)
        until = asyncio.get_running_loop().time() + how.patience
        try:
            try:
                async with asyncio.timeout_at(until):
                    await self._replies.start()
                    stored = await self._publisher.publish(topic, body, **sent)
            except TimeoutError:
                raise _too_slow(topic, how) from None
            what = f"request {stored.message_id} to {topic}"
            async for item in _parts(arrivals, Assembly(), _Clock(topic, how, until), what):
                yield item
        finally:
            self._replies.forget(reply_to)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Until when the next part is waited for."""

    topic: AnyTopic
    how: StreamOptions
    #: Loop time.
    until: float

    async def next(self, arrivals: _Arrivals) -> Reply:
        now = asyncio.get_running_loop().time()
        idle = self.how.idle
        idle_is_first = idle is not None and now + idle < self.until
        try:
            async with asyncio.timeout_at(now + idle if idle is not None and idle_is_first else self.until):
                return await arrivals.next()
        except TimeoutError:
            raise _too_slow(self.topic, self.how, idle=idle_is_first) from None


async def _parts(
    arrivals: _Arrivals, assembly: Assembly, clock: _Clock, what: str
) -> AsyncGenerator[Any, None]:
    how = clock.how
    while True:
        message = (await clock.next(arrivals)).message
        if message.message_type == FAILURE:
            raise failure_of(message, what)
        mark = PartMark.of(message.envelope)
        restarted = assembly.begins_anew(mark)
        if restarted is not None:
            if not how.marks:
                raise StreamRestarted(f"{what}: the handler began anew", parts=restarted.parts)
            yield restarted
        ends = message.message_type != PART
        if not assembly.is_next(mark, ends=ends):
            continue
        # A handler that returns something after its parts, or that knows no parts: that is the last one.
        if not ends or message.content is not None:
            yield message.content if how.part is None else validate_content(message.content, how.part)
        if ends:
            return


def _too_slow(topic: AnyTopic, how: StreamOptions, *, idle: bool = False) -> RequestTimeout:
    if idle:
        return RequestTimeout(f"{topic} sent nothing for {readable(how.idle or 0)}")
    return RequestTimeout(f"{topic} did not end its answer within {readable(how.patience)}")
