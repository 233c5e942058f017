"""The broker's own ceiling with redis-py and hiredis: what no library on top can beat."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from ..protocol import Candidate, body_bytes
from ..tuning import RAW_BATCH
from .redis_probe import make_group, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GROUP, CONSUMER, FIELD = "inbox", "reader", "message"

ADD_ALL = """
local ids = {}
for index, message in ipairs(ARGV) do
  ids[index] = redis.call('XADD', KEYS[1], '*', 'message', message)
end
return ids
"""


class Raw(Candidate):
    """Connections and groups; the ways of writing and reading are the subclasses."""

    async def open(self) -> None:
        self.client = Redis.from_url(self.address, socket_timeout=30)
        self.add_all = self.client.register_script(ADD_ALL)
        self.payload = body_bytes()

    async def close(self) -> None:
        await self.client.aclose()

    async def prepare(self, queue: str) -> None:
        await make_group(self.client, queue, GROUP)

    async def publish(self, queue: str) -> None:
        await self.client.xadd(queue, {FIELD: self.payload})

    async def fill(self, queue: str, count: int) -> None:
        for start in range(0, count, RAW_BATCH):
            await self.add_all(keys=[queue], args=[self.payload] * min(RAW_BATCH, count - start))

    async def unsettled(self, queue: str) -> int:
        return await pending(self.client, queue, GROUP)

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        reader = asyncio.create_task(self._read(queue, on_message), name="raw reader")
        try:
            yield
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def _read(self, queue: str, on_message: Callable[[], None]) -> None:
        """Acknowledge one batch in the same round trip that asks for the next."""
        handled: list[bytes] = []
        while True:
            pipe = self.client.pipeline(transaction=False)
            if handled:
                pipe.xack(queue, GROUP, *handled)
            pipe.xreadgroup(GROUP, CONSUMER, {queue: ">"}, count=RAW_BATCH)
            answer = (await pipe.execute())[-1]
            handled = []
            for _, entries in answer:
                for entry_id, _ in entries:
                    on_message()
                    handled.append(entry_id)
            if not handled:
                await asyncio.sleep(0.001)


class RawScript(Raw):
    """XADD inside one script per batch."""

    async def publish_all(self, queue: str, count: int) -> None:
        await self.fill(queue, count)


class RawPipeline(Raw):
    """XADD in plain pipelines."""

    async def publish_all(self, queue: str, count: int) -> None:
        for start in range(0, count, RAW_BATCH):
            pipe = self.client.pipeline(transaction=False)
            for _ in range(min(RAW_BATCH, count - start)):
                pipe.xadd(queue, {FIELD: self.payload})
            await pipe.execute()


class RawRead(Raw):
    """XREADGROUP and XACK in batches, no handler at all."""

    async def publish_all(self, queue: str, count: int) -> None:
        """What the reader reads while both sides run: script batches."""
        await self.fill(queue, count)


class RawLatency(Raw):
    """One XADD at a time, a reader parked in XREADGROUP."""

    async def _read(self, queue: str, on_message: Callable[[], None]) -> None:
        while True:
            answer: Any = await self.client.xreadgroup(GROUP, CONSUMER, {queue: ">"}, count=1, block=5000)
            for _, entries in answer:
                for entry_id, _ in entries:
                    on_message()
                    await self.client.xack(queue, GROUP, entry_id)
