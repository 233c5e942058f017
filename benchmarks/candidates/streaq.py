"""streaQ: typed task queue on Redis streams, at least once, result stored with the settlement."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from streaq import Worker

from ..protocol import Candidate, body
from ..tuning import STREAQ_CONCURRENCY
from .redis_probe import pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class StreaQ(Candidate):
    """One Worker object enqueues, another one serves."""

    async def open(self) -> None:
        logging.disable(logging.CRITICAL)
        self.client = Redis.from_url(self.address)
        self.workers: dict[str, tuple[Worker[Any], Any]] = {}
        self.payload = body()

    async def close(self) -> None:
        for worker, _ in self.workers.values():
            await worker.__aexit__(None, None, None)
        await self.client.aclose()

    def _worker(self, queue: str, on_message: Callable[[], None]) -> tuple[Worker[Any], Any]:
        worker: Worker[Any] = Worker(
            self.address, queue_name=queue, concurrency=STREAQ_CONCURRENCY, handle_signals=False
        )

        @worker.task(name="bench", ttl=0, silent=True)  # type: ignore[untyped-decorator,unused-ignore]
        async def bench(body: dict[str, str]) -> None:
            on_message()

        return worker, bench

    async def prepare(self, queue: str) -> None:
        """Its queue needs no group beforehand: a worker's group starts at the beginning."""
        if queue not in self.workers:
            worker, task = self._worker(queue, lambda: None)
            await worker.__aenter__()
            self.workers[queue] = (worker, task)

    async def publish(self, queue: str) -> None:
        await self.workers[queue][1].enqueue(self.payload)

    async def unsettled(self, queue: str) -> int:
        left = 0
        async for stream in self.client.scan_iter(match=f"streaq:{queue}:queues:*", _type="stream"):
            with suppress(ResponseError):
                left += await pending(self.client, stream, "workers")
        return left

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        worker, _ = self._worker(queue, on_message)
        serving = asyncio.create_task(worker.run_async())
        try:
            yield
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
