"""taskiq with the Redis stream broker of taskiq-redis, acknowledged after execution."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from ..protocol import Candidate, body
from ..tuning import TASKIQ_TASKS
from .redis_probe import make_group, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GROUP = "taskiq"
STOP_DEADLINE = 1.0


class TaskiqRedis(Candidate):
    """The worker loop runs in this process: the receiver its own worker command builds."""

    async def open(self) -> None:
        logging.disable(logging.CRITICAL)
        self.client = Redis.from_url(self.address)
        self.brokers: dict[str, tuple[RedisStreamBroker, Any]] = {}
        self.on_message: Callable[[], None] = lambda: None
        self.payload = body()

    async def close(self) -> None:
        for broker, _ in self.brokers.values():
            await broker.shutdown()
        await self.client.aclose()

    async def prepare(self, queue: str) -> None:
        await make_group(self.client, queue, GROUP)
        await self._task(queue)

    async def _task(self, queue: str) -> Any:
        """The task of this queue; the first use makes its broker."""
        if queue not in self.brokers:
            broker = RedisStreamBroker(
                self.address, queue_name=queue, consumer_group_name=GROUP, consumer_id="0"
            ).with_serializer(ORJSONSerializer())

            @broker.task(task_name="bench")  # type: ignore[untyped-decorator,unused-ignore]
            async def bench(body: dict[str, Any]) -> None:
                self.on_message()

            await broker.startup()
            self.brokers[queue] = (broker, bench)
        return self.brokers[queue][1]

    async def publish(self, queue: str) -> None:
        await self.brokers[queue][1].kiq(self.payload)

    async def unsettled(self, queue: str) -> int:
        return await pending(self.client, queue, GROUP)

    @asynccontextmanager
    async def consuming(self, queue: str, on_message: Callable[[], None]) -> AsyncIterator[None]:
        self.on_message = on_message
        await self._task(queue)
        broker = self.brokers[queue][0]
        receiver = Receiver(
            broker,
            max_async_tasks=TASKIQ_TASKS,
            max_prefetch=TASKIQ_TASKS,
            ack_type=AcknowledgeType.WHEN_EXECUTED,
            run_startup=False,
        )
        finish = asyncio.Event()
        listening = asyncio.create_task(receiver.listen(finish))
        try:
            yield
        finally:
            # Its stop cancels a blocked read; the driver sometimes swallows that, and the stop never ends.
            finish.set()
            await asyncio.wait({listening}, timeout=STOP_DEADLINE)
