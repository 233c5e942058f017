"""What a side process does for the fan-out, the round trips and the sends to many recipients."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, cast

from .measures import SETTLE_DEADLINE
from .protocol import Asking, Broadcasting, Candidate, ToMany, publish_concurrently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WARM_UP = 20
"""Round trips and sends before the clock runs: imports, connections, caches."""


class ManySide:
    """Keeps what is subscribed or answering between two commands."""

    def __init__(self, candidate: Candidate) -> None:
        self._broadcasting = cast("Broadcasting", candidate)
        self._asking = cast("Asking", candidate)
        self._to_many = cast("ToMany", candidate)
        self._stack = AsyncExitStack()
        self._subscribers = 0
        self._seen = self._awaited = 0
        self._ended = 0.0
        self._all_there = asyncio.Event()
        self.commands: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "open channel": self._open_channel,
            "subscribe": self._subscribe,
            "expect": self._expect,
            "gather": self._gather,
            "leave": self._leave,
            "announce": self._announce,
            "settled": self._settled,
            "processor": self._processor,
            "answer": self._answer,
            "round trips": self._round_trips,
            "at once": self._at_once,
            "to many": self._send_to_many,
        }

    # --- fan-out ---

    async def _open_channel(self, command: dict[str, Any]) -> dict[str, Any]:
        await self._broadcasting.open_channel(command["queue"], command["count"])
        return {}

    async def _subscribe(self, command: dict[str, Any]) -> dict[str, Any]:
        first, self._subscribers = command["count"], command["size"]
        numbers = range(first, first + self._subscribers)
        self._seen = self._awaited = 0
        await self._stack.enter_async_context(
            self._broadcasting.subscribing(command["queue"], numbers, self._one)
        )
        return {}

    def _one(self) -> None:
        self._seen += 1
        if self._seen == self._awaited:
            self._ended = perf_counter()
            self._all_there.set()

    async def _expect(self, command: dict[str, Any]) -> dict[str, Any]:
        """Before the word to announce: so many messages more for each subscriber."""
        self._awaited = self._seen + command["count"] * self._subscribers
        self._all_there.clear()
        return {}

    async def _gather(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            await asyncio.wait_for(self._all_there.wait(), command["limit"])
        except TimeoutError:
            raise RuntimeError(f"{self._awaited - self._seen} deliveries did not come") from None
        return {"ended": self._ended}

    async def _leave(self, command: dict[str, Any]) -> dict[str, Any]:
        await self._stack.aclose()
        return {}

    async def _announce(self, command: dict[str, Any]) -> dict[str, Any]:
        started = perf_counter()
        await self._broadcasting.announce_all(command["queue"], command["count"])
        return {"started": started}

    async def _settled(self, command: dict[str, Any]) -> dict[str, Any]:
        """Wait until nothing is unread or unsettled: a handler that returned is not enough."""
        deadline = perf_counter() + SETTLE_DEADLINE
        while left := await self._broadcasting.unread(command["queue"]):
            if perf_counter() > deadline:
                raise RuntimeError(f"{left} deliveries were not settled within {SETTLE_DEADLINE:.0f} s")
            await asyncio.sleep(0.05)
        return {}

    async def _processor(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"seconds": process_time()}

    # --- round trips ---

    async def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        await self._stack.enter_async_context(self._asking.answering(command["queue"]))
        return {}

    async def _round_trips(self, command: dict[str, Any]) -> dict[str, Any]:
        async def one() -> None:
            await self._asking.ask(command["queue"])

        return {"samples": await _timed(one, command["count"])}

    async def _at_once(self, command: dict[str, Any]) -> dict[str, Any]:
        queue, count = command["queue"], command["count"]
        await publish_concurrently(lambda: self._asking.ask(queue), count // 4, command["size"])
        started = perf_counter()
        await publish_concurrently(lambda: self._asking.ask(queue), count, command["size"])
        return {"rate": count / (perf_counter() - started)}

    # --- many recipients ---

    async def _send_to_many(self, command: dict[str, Any]) -> dict[str, Any]:
        queues = [f"{command['queue']}-{number}" for number in range(command["size"])]
        for queue in queues:
            await self._to_many.prepare(queue)

        async def one() -> None:
            await self._to_many.send_to(queues)

        return {"samples": await _timed(one, command["count"])}


async def _timed(one: Callable[[], Awaitable[None]], count: int) -> list[float]:
    """Seconds of each of `count` calls, one after the other."""
    samples = []
    for number in range(count + WARM_UP):
        started = perf_counter()
        await asyncio.wait_for(one(), 10)
        if number >= WARM_UP:
            samples.append(perf_counter() - started)
    return samples
