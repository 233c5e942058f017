"""Watching: an iteration over live events that closes cleanly and marks what it missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from agentbus.broker.live import Listener
from agentbus.errors import BrokerUnavailable, ConfigurationError, InvalidValue, MalformedMessage
from agentbus.events import Events
from agentbus.live.buffer import WatchBuffer
from agentbus.live.gap import WatchGap
from agentbus.message.backoff import Backoff
from agentbus.message.codec import decode
from agentbus.message.message import Message

#: What a watcher sees.
Seen = Message | WatchGap


class Watch:
    """Events as they are heard, from when it is entered until it is left.

    ``async with bus.watch(...) as events: async for event in events``, or ``async for event in
    bus.watch(...)``, which enters and leaves by itself. A `WatchGap` among the messages says that some are
    missing there: the reader was too slow, or the connection was lost.
    """

    def __init__(
        self,
        listener: Listener,
        events: Events,
        limit: int,
        established: Callable[[], Awaitable[None]],
        open_watches: set[Watch],
    ) -> None:
        self._listener = listener
        self._events = events
        self._buffer = WatchBuffer(checked_limit(limit))
        self._established = established
        self._open_watches = open_watches
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    # --- life ---

    async def __aenter__(self) -> Watch:
        """Subscribe; raises `BrokerError`."""
        if self._task is not None:
            raise ConfigurationError("this watch was entered before; make another one")
        self._open_watches.add(self)
        try:
            await self._listener.subscribe()
            self._task = asyncio.create_task(self._listen(), name="agentbus watch")
            # Not at the end of the task itself: it counts as done only afterwards.
            self._task.add_done_callback(lambda _: self._news.set())
            await self._established()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Listen no more; the iteration ends after what was heard already."""
        self._open_watches.discard(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if not self._task.cancelled():
                # Its error, if it had one, is the iteration's to raise, and who leaves does not iterate.
                self._task.exception()
        await self._listener.close()

    # --- reading ---

    def __aiter__(self) -> AsyncIterator[Seen]:
        return self._by_itself() if self._task is None else self._seen()

    async def _by_itself(self) -> AsyncIterator[Seen]:
        async with self:
            async for event in self._seen():
                yield event

    async def _seen(self) -> AsyncIterator[Seen]:
        assert self._task is not None
        while True:
            while self._buffer:
                yield self._buffer.take()
            if self._task.done():
                if not self._task.cancelled():
                    # The broker refuses to be listened to; nothing will come any more.
                    self._task.result()
                return
            self._news.clear()
            await self._news.wait()

    # --- listening ---

    async def _listen(self) -> None:
        while True:
            try:
                self._put(decode(await self._listener.next()))
            except MalformedMessage as error:
                self._events.emit("malformed_event", "", f"a live event that is no message: {error}")
            except BrokerUnavailable:
                await self._subscribe_again()
                # What publishers send before they know of us again belongs to the gap.
                await self._established()
                self._put(WatchGap(None))

    async def _subscribe_again(self) -> None:
        backoff = Backoff()
        while True:
            with contextlib.suppress(BrokerUnavailable):
                return await self._listener.subscribe()
            await asyncio.sleep(backoff.next_pause())

    def _put(self, seen: Seen) -> None:
        self._buffer.put(seen)
        self._news.set()


def checked_limit(limit: int) -> int:
    """Return how many events may wait after checking it."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidValue("buffer", f"must be a whole number of 1 or more, not {limit!r}")
    return limit
