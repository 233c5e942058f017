"""NATS JetStream with nats-py: file storage, durable consumers, explicit acknowledgement.

Twice: the way its documentation recommends for durable work (pull consumer), and the fastest way found
(pipelined publishing, push consumer), so that nobody has to wonder whether it was held back.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, StorageType

from ..protocol import Candidate, body_bytes, publish_concurrently
from ..tuning import JETSTREAM_BATCH, JETSTREAM_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

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

    async def _read(self, queue: str, on_message: Callable[[], None], durable: str = DURABLE) -> None:
        async def handle(message: Msg) -> None:
            on_message()

        subscription = await self.js.pull_subscribe_bind(durable, queue)
        while True:
            with suppress(nats.errors.TimeoutError):
                for message in await subscription.fetch(JETSTREAM_BATCH, timeout=5):
                    await handle(message)
                    await message.ack()

    # --- channels: a durable consumer for each subscriber ---

    async def open_channel(self, channel: str, subscribers: int) -> None:
        await self.js.add_stream(name=channel, subjects=[channel], storage=StorageType.FILE)
        self.subscribers = subscribers

    @asynccontextmanager
    async def subscribing(
        self, channel: str, numbers: range, on_message: Callable[[], None]
    ) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for number in numbers:
                durable = f"subscriber-{number}"
                await stack.enter_async_context(self._subscribed(channel, durable, on_message))
            yield

    @asynccontextmanager
    async def _subscribed(
        self, channel: str, durable: str, on_message: Callable[[], None]
    ) -> AsyncIterator[None]:
        config = ConsumerConfig(
            durable_name=durable, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=JETSTREAM_IN_FLIGHT
        )
        await self.js.add_consumer(channel, config)
        reader = asyncio.create_task(self._read(channel, on_message, durable))
        try:
            yield
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def announce_all(self, channel: str, count: int) -> None:
        await publish_concurrently(lambda: self.publish(channel), count)

    async def unread(self, channel: str) -> int:
        left = 0
        for start in range(0, self.subscribers, 50):
            names = [f"subscriber-{number}" for number in range(start, min(start + 50, self.subscribers))]
            found = await asyncio.gather(*(self.js.consumer_info(channel, name) for name in names))
            left += sum((info.num_ack_pending or 0) + (info.num_pending or 0) for info in found)
        return left

    async def send_to(self, queues: Sequence[str]) -> None:
        await asyncio.gather(*(self.publish(queue) for queue in queues))


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

    @asynccontextmanager
    async def _subscribed(
        self, channel: str, durable: str, on_message: Callable[[], None]
    ) -> AsyncIterator[None]:
        async def handle(message: Msg) -> None:
            on_message()
            await message.ack()

        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=JETSTREAM_IN_FLIGHT)
        subscription = await self.js.subscribe(
            channel, durable=durable, stream=channel, cb=handle, manual_ack=True, config=config
        )
        try:
            yield
        finally:
            await subscription.unsubscribe()
