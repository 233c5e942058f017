"""One part in the revival of dead letters: `python -m benchmarks.revival_side <address> <inbox>`.

Each process obeys one kind of command: `flow` publishes fresh messages at a steady rate, `serve` handles them
and what is retried, `fill` writes dead letters and `retry` hands them out again.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Any

from redis.asyncio import Redis

from agentbus import Agent, Bus, DeadLetterFilter
from agentbus.broker.keys import inbox_keys
from agentbus.send.envelope import Sender, compose

from .lines import Talk
from .protocol import body
from .tuning import AGENTBUS_CONCURRENCY

FRESH, OLD = "task", "old"
LETTER: dict[Any, Any] = {
    "reason": "exhausted", "detail": "boom", "lane": "normal", "entry": "1-1", "owner": "somebody",
    "attempts": 4, "max_retries": 3, "state": '{"attempt":3}',
}  # fmt: skip
TICK = 0.01
"""Seconds between two batches of the steady flow."""


class Part:
    """One process's part."""

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, name
        self.bus = Bus(address, agent="revival")

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        count, rate, limit = command["count"], command["size"], command["limit"]
        match command["do"]:
            case "flow":
                return await self.flow(count, rate)
            case "serve":
                return await self.serve(count, rate, limit)
            case "fill":
                return await self.fill(count)
            case "retry":
                return await self.retry(rate)
            case unknown:
                raise ValueError(f"unknown command {unknown!r}")

    async def flow(self, count: int, rate: int) -> dict[str, Any]:
        """Publish `count` messages at `rate` a second; later when the broker does not take them in time."""
        started, sent = perf_counter(), 0
        while sent < count:
            due = min(count, int((perf_counter() - started + TICK) * rate))
            if due > sent:
                stored = await self.bus.publish_many(f"agent.{self.name}.{FRESH}", [body()] * (due - sent))
                problems = [each for each in stored if isinstance(each, Exception)]
                if problems:
                    raise problems[0]
                sent = due
            await asyncio.sleep(TICK / 2)
        return {"seconds": perf_counter() - started}

    async def serve(self, fresh: int, old: int, limit: float) -> dict[str, Any]:
        """Handle messages until so many fresh and old ones came; says how long the fresh ones took."""
        left, done = {FRESH: fresh, OLD: old}, asyncio.Event()
        times: list[float] = []
        agent = Agent(self.name, concurrency=AGENTBUS_CONCURRENCY)

        def one(kind: str) -> None:
            left[kind] -= 1
            if kind == FRESH and left[FRESH] in (fresh - 1, 0):
                times.append(perf_counter())
            if left[FRESH] <= 0 and left[OLD] <= 0:
                done.set()

        @agent.on(FRESH)
        async def handle_fresh(body: dict[str, str]) -> None:
            one(FRESH)

        @agent.on(OLD)
        async def handle_old(body: dict[str, str]) -> None:
            one(OLD)

        async with self.bus.serving(agent):
            await asyncio.wait_for(done.wait(), limit)
        return {"seconds": times[-1] - times[0], "closes": (await self.bus.inspect(self.name)).ledger.closes}

    async def fill(self, count: int) -> dict[str, Any]:
        """Write dead letters as a burial does, only faster."""
        keys = inbox_keys("agentbus", f"agent.{self.name}")
        sender, topic = Sender("revival", "revival"), f"agent.{self.name}.{OLD}"
        async with Redis.from_url(self.address) as client:
            for first in range(0, count, 1000):
                pipe = client.pipeline(transaction=False)
                for _ in range(min(1000, count - first)):
                    text = compose(sender, topic, body(), {}, 1 << 20).text
                    pipe.xadd(keys.dead, {**LETTER, "message": text})
                await pipe.execute()
            await client.hincrby(keys.ledger, "accepted", count)
            # As where a worker runs: it announced them long ago.
            await client.hset(keys.ledger, "announced", str(2**53 - 1))
        return {}

    async def retry(self, rate: int) -> dict[str, Any]:
        """Retry all of them, at `rate` a second."""
        started = perf_counter()
        done = await self.bus.dead_letters.retry_all(DeadLetterFilter(self.name), rate)
        return {"retried": done.retried, "seconds": perf_counter() - started}


async def _serve(talk: Talk, part: Part) -> None:
    async with part.bus:
        talk.tell({"ready": {}})
        await talk.serve(part.obey)


def main() -> None:
    address, name = sys.argv[1:]
    talk = Talk()
    try:
        asyncio.run(_serve(talk, Part(address, name)))
    except Exception as error:
        talk.tell_error(error)


if __name__ == "__main__":
    main()
