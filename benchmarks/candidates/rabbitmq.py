"""RabbitMQ quorum queue with aio-pika: publisher confirms, prefetch, acknowledged after the handler."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aio_pika

from ..protocol import Candidate, body_bytes
from ..tuning import RABBITMQ_PREFETCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aio_pika.abc import AbstractIncomingMessage


class RabbitQuorum(Candidate):
    """One connection, one channel for publishing and one for consuming, as its documentation advises."""

    async def open(self) -> None:
        self.connection = await aio_pika.connect(self.address)
        self.channel = await self.connection.channel(publisher_confirms=True)
        self.payload = body_bytes()
        self.unacknowledged = 0

    async def close(self) -> None:
        await self.connection.close()

    async def _declare(self, channel: aio_pika.abc.AbstractChannel, queue: str) -> aio_pika.abc.AbstractQueue:
        return await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})

    async def prepare(self, queue: str) -> None:
        await self._declare(self.channel, queue)

    async def publish(self, queue: str) -> None:
        message = aio_pika.Message(self.payload, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.channel.default_exchange.publish(message, routing_key=queue)

    async def discard(self, queue: str) -> None:
        await self.channel.queue_delete(queue)

    def server_versions(self) -> dict[str, str]:
        properties = self.connection.transport.connection.server_properties
        return {"rabbitmq-server": str(properties.get("version"))}

    async def unsettled(self, queue: str) -> int:
        """AMQP does not tell what is unacknowledged: our own count, once the broker has read our acks."""
        await self.consumer_channel.declare_queue(queue, passive=True)
        return self.unacknowledged

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        channel = self.consumer_channel = await self.connection.channel()
        await channel.set_qos(prefetch_count=RABBITMQ_PREFETCH)
        declared = await self._declare(channel, queue)

        async def handle(message: AbstractIncomingMessage) -> None:
            self.unacknowledged += 1
            on_message()
            await message.ack()
            self.unacknowledged -= 1

        tag = await declared.consume(handle)
        try:
            yield
        finally:
            await declared.cancel(tag)
            await channel.close()
