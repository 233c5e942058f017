"""FastStream on Redis streams: consumer group, acknowledged after the handler."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from ..protocol import PUBLISHERS, Candidate, body, publish_concurrently
from ..tuning import FASTSTREAM_RECORDS
from .redis_probe import make_group, pending, pending_of_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

GROUP, CONSUMER = "workers", "worker-1"


class FastStreamRedis(Candidate):
    """One broker object for publishing, one per consumer, as in its documentation."""

    async def open(self) -> None:
        logging.disable(logging.CRITICAL)
        self.client = Redis.from_url(self.address)
        self.broker = RedisBroker(self.address, logger=None, max_connections=PUBLISHERS)
        await self.broker.connect()
        self.payload = body()

    async def close(self) -> None:
        await self.broker.stop()
        await self.client.aclose()

    async def prepare(self, queue: str) -> None:
        await make_group(self.client, queue, GROUP)

    async def publish(self, queue: str) -> None:
        await self.broker.publish(self.payload, stream=queue)

    async def unsettled(self, queue: str) -> int:
        return await pending(self.client, queue, GROUP)

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        broker = RedisBroker(self.address, logger=None, max_connections=PUBLISHERS)

        async def handle(body: dict[str, Any]) -> None:
            on_message()

        stream = StreamSub(queue, group=GROUP, consumer=CONSUMER, max_records=FASTSTREAM_RECORDS)
        broker.subscriber(stream=stream, ack_policy=AckPolicy.REJECT_ON_ERROR)(handle)
        await broker.start()
        try:
            yield
        finally:
            await broker.stop()

    # --- channels ---

    async def open_channel(self, channel: str, subscribers: int) -> None:
        for number in range(subscribers):
            await make_group(self.client, channel, f"group-{number}")

    @asynccontextmanager
    async def subscribing(
        self, channel: str, numbers: range, on_message: Callable[[], None]
    ) -> AsyncIterator[None]:
        broker = RedisBroker(self.address, logger=None, max_connections=len(numbers) + 50)

        async def handle(body: dict[str, Any]) -> None:
            on_message()

        for number in numbers:
            stream = StreamSub(
                channel, group=f"group-{number}", consumer=CONSUMER, max_records=FASTSTREAM_RECORDS
            )
            broker.subscriber(stream=stream, ack_policy=AckPolicy.REJECT_ON_ERROR)(handle)
        await broker.start()
        try:
            yield
        finally:
            await broker.stop()

    async def announce_all(self, channel: str, count: int) -> None:
        await publish_concurrently(lambda: self.publish(channel), count)

    async def unread(self, channel: str) -> int:
        return await pending_of_all(self.client, channel)

    # --- round trips, and many recipients ---

    @asynccontextmanager
    async def answering(self, queue: str) -> AsyncIterator[None]:
        broker = RedisBroker(self.address, logger=None, max_connections=PUBLISHERS)

        async def handle(body: dict[str, Any]) -> dict[str, Any]:
            return body

        stream = StreamSub(queue, group=GROUP, consumer=CONSUMER, max_records=FASTSTREAM_RECORDS)
        broker.subscriber(stream=stream, ack_policy=AckPolicy.REJECT_ON_ERROR)(handle)
        await broker.start()
        try:
            yield
        finally:
            await broker.stop()

    async def ask(self, queue: str) -> None:
        await self.broker.request(self.payload, stream=queue)

    async def send_to(self, queues: Sequence[str]) -> None:
        await asyncio.gather(*(self.publish(queue) for queue in queues))
