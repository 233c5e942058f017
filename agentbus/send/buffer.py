"""The bounded buffer between callers and the broker."""

from __future__ import annotations

import asyncio
from collections import deque

from agentbus.errors import PublishTimeout


class Buffer:
    """Counts what waits in this process and holds callers back when it is full; it never drops."""

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._messages = 0
        self._bytes = 0
        self._waiters: deque[tuple[float, asyncio.Future[None]]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether one more message may come in now."""
        # Callers that wait go first: a newcomer must not overtake them for ever.
        return not self._waiters and self._below_limits()

    @property
    def waited_for(self) -> bool:
        """Whether callers are being held back."""
        return bool(self._waiters)

    @property
    def messages(self) -> int:
        """Messages in the buffer."""
        return self._messages

    def add(self, size: int) -> None:
        """Count one message in."""
        self._messages += 1
        self._bytes += size

    def remove(self, messages: int, size: int) -> None:
        """Count messages out and let as many callers in."""
        self._messages -= messages
        self._bytes -= size
        if self._waiters:
            self._admit()

    def _admit(self) -> None:
        """Wake as many callers as there is room for; each looks again before it adds its message."""
        room = self._most_messages - self._messages if self._below_limits() else 0
        while self._waiters and room > 0:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1

    async def wait_room(self, until: float) -> None:
        """Wait for room; raises `PublishTimeout` when there is none by loop time ``until``."""
        while not self.has_room:
            if until <= asyncio.get_running_loop().time():
                raise self._full()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((until, waiter))
            try:
                await waiter
            except asyncio.CancelledError:
                # Admitted and cancelled in one turn: the place goes to the next, or nobody would wake it.
                self._admit()
                raise
            if self._below_limits():
                return

    def expire(self, now: float) -> None:
        """Give up for callers whose deadline has passed."""
        for until, waiter in list(self._waiters):
            if until <= now and not waiter.done():
                waiter.set_exception(self._full())
        if self._waiters:
            self._waiters = deque(item for item in self._waiters if not item[1].done())

    def _full(self) -> PublishTimeout:
        return PublishTimeout(
            f"the publish buffer is full ({self._messages} messages, {self._bytes:,} bytes) and the broker "
            "did not take any in time; nothing of this message was sent"
        )

    def _below_limits(self) -> bool:
        return self._messages < self._most_messages and self._bytes < self._most_bytes
