"""agentbus itself, through its public names only and with its defaults."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from agentbus import Agent, Bus
from agentbus.settings import BusSettings, PublisherSettings

from ..protocol import Candidate, body
from ..tuning import AGENTBUS_ADDRESS_LIMIT, AGENTBUS_CONCURRENCY, AGENTBUS_MANY
from .redis_probe import pending, pending_of_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


class AgentBus(Candidate):
    """`publish` from many tasks, an agent with one async handler."""

    async def open(self) -> None:
        self.client = Redis.from_url(self.address)
        room = PublisherSettings(address_limit=AGENTBUS_ADDRESS_LIMIT)
        self.bus = Bus(self.address, agent="bench", settings=BusSettings(publisher=room))
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
        topic, bodies = f"agent.{queue}.task", [self.payload] * AGENTBUS_MANY
        for start in range(0, count, AGENTBUS_MANY):
            for stored in await self.bus.publish_many(topic, bodies[: count - start]):
                if isinstance(stored, Exception):
                    raise stored

    async def unsettled(self, queue: str) -> int:
        left = 0
        async for key in self.client.scan_iter(match=f"agentbus:{{agent.{queue}}}:*", _type="stream"):
            with suppress(ResponseError):  # a stream without the group: outcomes, dead letters
                left += await pending(self.client, key, "inbox")
        return left

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        agent = Agent(queue, concurrency=AGENTBUS_CONCURRENCY)

        @agent.on("task")
        async def handle(body: dict[str, str]) -> None:
            on_message()

        async with self.bus.serving(agent):
            yield

    # --- channels ---

    async def open_channel(self, channel: str, subscribers: int) -> None:
        """Nothing: the first to subscribe makes the log."""

    @asynccontextmanager
    async def subscribing(
        self, channel: str, numbers: range, on_message: Callable[[], None]
    ) -> AsyncIterator[None]:
        agents = [Agent(f"{channel}-{number}") for number in numbers]

        async def handle(body: dict[str, str]) -> None:
            on_message()

        for agent in agents:
            agent.on(f"channel.{channel}.note")(handle)
        async with self.bus.serving(*agents):
            yield

    async def announce_all(self, channel: str, count: int) -> None:
        for stored in await self.bus.publish_many(f"channel.{channel}.note", [self.payload] * count):
            if isinstance(stored, Exception):
                raise stored

    async def unread(self, channel: str) -> int:
        return await pending_of_all(self.client, f"agentbus:{{channel.{channel}}}:log")

    # --- round trips, and many recipients ---

    @asynccontextmanager
    async def answering(self, queue: str) -> AsyncIterator[None]:
        agent = Agent(queue, concurrency=AGENTBUS_CONCURRENCY)

        @agent.on("question")
        async def handle(body: dict[str, str]) -> dict[str, str]:
            return body

        async with self.bus.serving(agent):
            yield

    async def ask(self, queue: str) -> None:
        await self.bus.request(f"agent.{queue}.question", self.payload)

    async def send_to(self, queues: Sequence[str]) -> None:
        await self.bus.send("task", self.payload, to=list(queues), allow_unknown=True)


class AgentBusMany(AgentBus):
    """The same inbox, written by `publish_many`."""

    async def publish_all(self, queue: str, count: int) -> None:
        await self.fill(queue, count)
