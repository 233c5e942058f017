"""NATS JetStream with nats-py: file storage, durable consumers, explicit acknowledgement.

Twice: the way its documentation recommends for durable work (pull consumer), and the fastest way found
(pipelined publishing, push consumer), so that nobody has to wonder whether it was held back.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, StorageType

from ..protocol import Candidate, body_bytes
from ..tuning import JETSTREAM_BATCH, JETSTREAM_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.aio.msg import Msg

DURABLE = "workers"


class JetStream(Candidate):
    """One stream per queue; the queue's name is the subject."""

    async def open(self) -> None:
        self.connection = await nats.connect(self.address, allow_reconnect=False)
        self.js = self.connection.jetstream()
        self.payload = body_bytes()

    async def close(self) -> None:
        await self.connection.close()

    async def prepare(self, queue: str) -> None:
        await self.js.add_stream(name=queue, subjects=[queue], storage=StorageType.FILE)
        await self.js.add_consumer(
            queue,
            ConsumerConfig(
                durable_name=DURABLE, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=JETSTREAM_IN_FLIGHT
            ),
        )

    async def publish(self, queue: str) -> None:
        await self.js.publish(queue, self.payload, timeout=30)

    async def discard(self, queue: str) -> None:
        await self.js.delete_stream(queue)

    def server_versions(self) -> dict[str, str]:
        return {"nats-server": str(self.connection._server_info["version"])}

    async def unsettled(self, queue: str) -> int:
        return int((await self.js.consumer_info(queue, DURABLE)).num_ack_pending or 0)

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        reader = asyncio.create_task(self._read(queue, on_message))
        try:
            yield
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def _read(self, queue: str, on_message: Callable[[], None]) -> None:
        async def handle(message: Msg) -> None:
            on_message()

        subscription = await self.js.pull_subscribe_bind(DURABLE, queue)
        while True:
            with suppress(nats.errors.TimeoutError):
                for message in await subscription.fetch(JETSTREAM_BATCH, timeout=5):
                    await handle(message)
                    await message.ack()


class JetStreamPush(JetStream):
    """The same streams, written with `publish_async` and read by a push subscription with a callback."""

    async def prepare(self, queue: str) -> None:
        await self.js.add_stream(name=queue, subjects=[queue], storage=StorageType.FILE)

    async def publish(self, queue: str) -> None:
        await (await self.js.publish_async(queue, self.payload))

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        async def handle(message: Msg) -> None:
            on_message()
            await message.ack()

        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=JETSTREAM_IN_FLIGHT)
        subscription = await self.js.subscribe(
            queue, durable=DURABLE, stream=queue, cb=handle, manual_ack=True, config=config
        )
        try:
            yield
        finally:
            await subscription.unsubscribe()
