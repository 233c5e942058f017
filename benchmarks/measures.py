"""The measurements themselves: one clock and one way of counting for every candidate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .protocol import Candidate

SETTLE_DEADLINE = 10.0
"""Seconds a candidate gets to settle what its handlers have finished."""

IDLE_PAUSE = 0.004
"""Seconds between two messages of the latency measurement: every reader is parked again by then."""


@dataclass(slots=True)
class Countdown:
    """Counts handled messages; the first tenth is warm-up and not on the clock."""

    count: int
    seen: int = 0
    started: float = 0.0
    ended: float = 0.0
    warm_up: int = field(init=False)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.warm_up = max(1, self.count // 10)

    def one(self) -> None:
        self.seen += 1
        if self.seen == self.warm_up:
            self.started = perf_counter()
        elif self.seen == self.count:
            self.ended = perf_counter()
            self.done.set()

    @property
    def rate(self) -> float:
        return (self.count - self.warm_up) / (self.ended - self.started)


async def publish_rate(candidate: Candidate, queue: str, count: int) -> float:
    """Confirmed messages per second; a quarter more is published before, elsewhere, to warm up."""
    warm_queue = f"{queue}-warm"
    await candidate.prepare(queue)
    await candidate.prepare(warm_queue)
    await candidate.publish_all(warm_queue, max(count // 4, 1))
    started = perf_counter()
    await candidate.publish_all(queue, count)
    return count / (perf_counter() - started)


async def consume_rate(
    candidate: Candidate, queue: str, count: int, limit: float, empties: bool = True
) -> float:
    """Handled and settled messages per second; raises when it takes more than `limit` seconds.

    `empties` says that the queue holds no more than `count`: then everything has to be settled while the
    consumer still runs. Otherwise it takes more all the time, and has to leave nothing behind when it stops.
    """
    countdown = Countdown(count)
    async with candidate.consuming(queue, countdown.one):
        await asyncio.wait_for(countdown.done.wait(), limit)
        if empties:
            await _wait_until_settled(candidate, queue)
    if not empties:
        await _wait_until_settled(candidate, queue)
    return countdown.rate


async def _wait_until_settled(candidate: Candidate, queue: str) -> None:
    """A handler that returned is not enough: what is not settled would come again."""
    deadline = perf_counter() + SETTLE_DEADLINE
    while left := await candidate.unsettled(queue):
        if perf_counter() > deadline:
            raise RuntimeError(f"{left} handled messages were not settled within {SETTLE_DEADLINE:.0f} s")
        await asyncio.sleep(0.02)


async def idle_latencies(candidate: Candidate, queue: str, count: int) -> list[float]:
    """Seconds from the call of publish to the first line of the handler, one message at a time."""
    arrived = asyncio.Event()
    arrival = 0.0

    def on_message() -> None:
        nonlocal arrival
        arrival = perf_counter()
        arrived.set()

    samples: list[float] = []
    await candidate.prepare(queue)
    async with candidate.consuming(queue, on_message):
        for number in range(count + 20):
            arrived.clear()
            started = perf_counter()
            await candidate.publish(queue)
            await asyncio.wait_for(arrived.wait(), 10)
            if number >= 20:  # the first ones pay for imports and caches
                samples.append(arrival - started)
            await asyncio.sleep(IDLE_PAUSE)
    return samples
