"""Commands that are given in one turn of the event loop leave together.

A write to a socket costs client and server more than most commands do: where many tasks have something to say
at the same moment (a message to fifty inboxes, a thousand readers of one channel), it is one write, and one
wake-up for the answers.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
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

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._waiting: list[_Waiting] = []
        self._turn_began = False
        self._under_way: set[asyncio.Task[None]] = set()

    def leaves_alone(self, packed: bytes) -> bool:
        """Whether a command is sent by its caller: it is large, or the first of its turn.

        The first waits for nobody, since mostly it is the only one.
        """
        if len(packed) > _LARGE:
            return True
        if self._turn_began:
            return False
        self._turn_began = True
        asyncio.get_running_loop().call_soon(self._end_turn)
        return True

    async def add(self, packed: bytes) -> Any:
        """Send a command with the others of this turn, and return its reply; raises `BrokerError`.

        A caller that gives up before the turn ends takes its command back.
        """
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(packed, reply))
        return await reply

    def _end_turn(self) -> None:
        self._turn_began = False
        waiting, self._waiting = self._waiting, []
        for portion in _portions([each for each in waiting if not each.reply.done()]):
            task = asyncio.create_task(self._send(portion), name="agentbus commands")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, portion: Sequence[_Waiting]) -> None:
        """Send some commands and tell their callers."""
        answers: list[Any] = []
        failure: BrokerError = BrokerUnavailable("the connection was closed meanwhile", uncertain=True)
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
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)


def _tell(reply: asyncio.Future[Any], answer: Any) -> None:
    if reply.done():
        return
    if isinstance(answer, BrokerError):
        reply.set_exception(answer)
    else:
        reply.set_result(answer)


def _portions(waiting: Sequence[_Waiting]) -> Iterator[list[_Waiting]]:
    portion: list[_Waiting] = []
    size = 0
    for each in waiting:
        if portion and (len(portion) == _MOST_TOGETHER or size + len(each.packed) > _MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(each)
        size += len(each.packed)
    if portion:
        yield portion
