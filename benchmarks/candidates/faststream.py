"""FastStream on Redis streams: consumer group, acknowledged after the handler."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

from ..protocol import BOTH, CONSUME, LATENCY, PUBLISH, PUBLISHERS, Candidate, Description, body
from .redis_probe import make_group, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GROUP, CONSUMER = "workers", "worker-1"
RECORDS = 100


class FastStreamRedis(Candidate):
    """One broker object for publishing, one per consumer, as in its documentation."""

    description: ClassVar[Description] = Description(
        title="FastStream (Redis streams)",
        packages=("faststream", "redis", "hiredis"),
        server="redis",
        setup=(
            f"`StreamSub(group=…, consumer=…, max_records={RECORDS})`, one worker (its "
            "default, and faster with a handler that does nothing than 10, 100 or 500), "
            "`AckPolicy.REJECT_ON_ERROR` (its at-least-once default: XACK after the handler), no logging, "
            f"`max_connections={PUBLISHERS}` (with its 100 the publishing tasks get errors), orjson installed."
        ),
        measures=frozenset({PUBLISH, CONSUME, BOTH, LATENCY}),
    )

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

        stream = StreamSub(queue, group=GROUP, consumer=CONSUMER, max_records=RECORDS)
        broker.subscriber(stream=stream, ack_policy=AckPolicy.REJECT_ON_ERROR)(handle)
        await broker.start()
        try:
            yield
        finally:
            await broker.stop()
