"""agentbus itself, through its public names only and with its defaults."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

from agentbus import Agent, Bus
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..protocol import BOTH, CONSUME, LATENCY, PUBLISH, Candidate, Description, body
from .redis_probe import pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CONCURRENCY = 64
MANY = 1000


class AgentBus(Candidate):
    """`publish` from many tasks, an agent with one async handler."""

    description: ClassVar[Description] = Description(
        title="agentbus",
        packages=("agentbus-redis", "redis", "hiredis", "orjson"),
        server="redis",
        setup=f"`Bus(url)`, `bus.publish`, `Agent(name, concurrency={CONCURRENCY})`, everything else default.",
        measures=frozenset({PUBLISH, CONSUME, BOTH, LATENCY}),
    )

    async def open(self) -> None:
        self.client = Redis.from_url(self.address)
        self.bus = Bus(self.address, agent="bench")
        await self.bus.__aenter__()
        self.payload = body()

    async def close(self) -> None:
        await self.bus.__aexit__(None, None, None)
        await self.client.aclose()

    async def prepare(self, queue: str) -> None:
        """Nothing: an inbox exists as soon as somebody writes to it."""

    async def publish(self, queue: str) -> None:
        await self.bus.publish(f"agent.{queue}.task", self.payload)

    async def fill(self, queue: str, count: int) -> None:
        topic, bodies = f"agent.{queue}.task", [self.payload] * MANY
        for start in range(0, count, MANY):
            await self.bus.publish_many(topic, bodies[: count - start])

    async def unsettled(self, queue: str) -> int:
        left = 0
        async for key in self.client.scan_iter(match=f"agentbus:{{agent.{queue}}}:*", _type="stream"):
            with suppress(ResponseError):  # a stream without the group: outcomes, dead letters
                left += await pending(self.client, key, "inbox")
        return left

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        agent = Agent(queue, concurrency=CONCURRENCY)

        @agent.on("task")
        async def handle(body: dict[str, str]) -> None:
            on_message()

        async with self.bus.serving(agent):
            yield


class AgentBusMany(AgentBus):
    """The same inbox, written by `publish_many`."""

    description: ClassVar[Description] = Description(
        title="agentbus, publish_many",
        packages=("agentbus-redis", "redis", "hiredis", "orjson"),
        server="redis",
        setup=f"`bus.publish_many` with {MANY} bodies a call, one call after the other.",
        measures=frozenset({PUBLISH}),
    )

    async def publish_all(self, queue: str, count: int) -> None:
        await self.fill(queue, count)
