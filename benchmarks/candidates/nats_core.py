"""NATS without JetStream: request and reply, nothing stored."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .jetstream import JetStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg


class NatsCore(JetStream):
    """The same connection; a subscription that responds."""

    @asynccontextmanager
    async def answering(self, queue: str) -> AsyncIterator[None]:
        async def handle(message: Msg) -> None:
            await message.respond(message.data)

        subscription = await self.connection.subscribe(queue, cb=handle)
        await self.connection.flush()
        try:
            yield
        finally:
            await subscription.unsubscribe()

    async def ask(self, queue: str) -> None:
        await self.connection.request(queue, self.payload, timeout=30)
