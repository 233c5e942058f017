"""Commands that are given in one turn of the event loop leave together.

A write to a socket costs client and server more than most commands do: where many tasks have something to say
at the same moment (a message to fifty inboxes, a thousand readers of one channel), it is one write, and one
wake-up for the answers. While all connections are busy, what is said waits for the next free one, together.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from agentbus.errors import BrokerError, BrokerUnavailable

#: Commands, and bytes of commands, that leave together. They share the deadline of one reply.
_MOST_TOGETHER, _MOST_BYTES = 128, 262_144
#: Bytes of a command that is not kept together with others: they would wait for its bytes.
_LARGE = 65_536

#: Sends packed commands in one write, and returns their replies; a refused one has its `BrokerError`.
Exchange = Callable[[Sequence[bytes]], Awaitable[list[Any]]]


class _Waiting(NamedTuple):
    packed: bytes
    reply: asyncio.Future[Any]


class Gathering:
    """Gathers commands of one event loop."""

    def __init__(self, slots: asyncio.Semaphore, exchange: Exchange) -> None:
        """``slots`` bounds how many exchanges there are at a time, those of others too."""
        self._slots = slots
        self._exchange = exchange
        self._waiting: deque[_Waiting] = deque()
        self._turn_began = False
        #: Whether what waits has somebody who fetches it as soon as there is a slot.
        self._is_fetched = False
        self._under_way: set[asyncio.Task[None]] = set()

    def leaves_alone(self, packed: bytes) -> bool:
        """Whether a command is sent by its caller: it is large, or the first of its turn.

        The first waits for nobody, since mostly it is the only one.
        """
        if len(packed) > _LARGE:
            return True
        alone = not (self._turn_began or self._slots.locked())
        if not self._turn_began:
            self._turn_began = True
            asyncio.get_running_loop().call_soon(self._end_turn)
        return alone

    async def add(self, packed: bytes) -> Any:
        """Send a command with the others of this turn, and return its reply; raises `BrokerError`.

        Only after `leaves_alone` has said no. A caller that gives up before it was sent takes it back.
        """
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(packed, reply))
        return await reply

    def _end_turn(self) -> None:
        self._turn_began = False
        if self._waiting and not self._is_fetched:
            self._is_fetched = True
            task = asyncio.create_task(self._send(), name="agentbus commands")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self) -> None:
        """Wait for a slot, send as much of what waits by then as may leave together, and tell the callers."""
        async with self._slots:
            self._is_fetched = False
            portion = self._take()
            # What is left, and what is said from now on, leaves with the next one.
            self._end_turn()
            if portion:
                await self._carry_out(portion)

    def _take(self) -> list[_Waiting]:
        portion: list[_Waiting] = []
        size = 0
        while self._waiting and len(portion) < _MOST_TOGETHER:
            each = self._waiting[0]
            if portion and size + len(each.packed) > _MOST_BYTES:
                break
            self._waiting.popleft()
            if not each.reply.done():
                portion.append(each)
                size += len(each.packed)
        return portion

    async def _carry_out(self, portion: Sequence[_Waiting]) -> None:
        answers: list[Any] = []
        failure: BrokerError = _closed(uncertain=True)
        try:
            answers = await self._exchange([each.packed for each in portion])
        except BrokerError as error:
            failure = error
        finally:
            # Also where this task was cancelled or met a mistake of ours: nobody is left waiting.
            answers = answers or [copy.copy(failure) for _ in portion]
            for each, answer in zip(portion, answers, strict=True):
                _tell(each.reply, answer)

    async def close(self) -> None:
        """Give up what is under way, and what was never sent."""
        while self._waiting or self._under_way:
            # First: what is given up must not leave with the next slot.
            while self._waiting:
                _tell(self._waiting.popleft().reply, _closed(uncertain=False))
            for task in self._under_way:
                task.cancel()
            if self._under_way:
                await asyncio.wait(self._under_way)
        self._is_fetched = False


def _closed(uncertain: bool) -> BrokerUnavailable:
    return BrokerUnavailable("the connection to the broker was closed meanwhile", uncertain=uncertain)


def _tell(reply: asyncio.Future[Any], answer: Any) -> None:
    if reply.done():
        return
    if isinstance(answer, BrokerError):
        reply.set_exception(answer)
    else:
        reply.set_result(answer)
