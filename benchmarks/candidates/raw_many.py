"""Raw Redis for many subscribers, round trips and many recipients: commands and no more."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool, Redis

from ..protocol import PUBLISHERS
from ..tuning import RAW_BATCH, RAW_GROUPS_AT_ONCE
from .raw import CONSUMER, FIELD, GROUP, Raw
from .redis_probe import make_group, pending_of_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


class RawFanOut(Raw):
    """A group for each subscriber, read in turn by pipelines of XACK and XREADGROUP."""

    async def open_channel(self, channel: str, subscribers: int) -> None:
        for number in range(subscribers):
            await make_group(self.client, channel, f"group-{number}")

    @asynccontextmanager
    async def subscribing(
        self, channel: str, numbers: range, on_message: Callable[[], None]
    ) -> AsyncIterator[None]:
        # Told to stop, not cancelled: the driver may swallow a cancellation in the middle of a pipeline.
        stop = asyncio.Event()
        reader = asyncio.create_task(self._read_all(channel, numbers, on_message, stop), name="raw reader")
        try:
            yield
        finally:
            stop.set()
            await reader

    async def _read_all(
        self, channel: str, numbers: range, on_message: Callable[[], None], stop: asyncio.Event
    ) -> None:
        groups = [f"group-{number}" for number in numbers]
        parts = [groups[at : at + RAW_GROUPS_AT_ONCE] for at in range(0, len(groups), RAW_GROUPS_AT_ONCE)]
        handled: dict[str, list[bytes]] = {}
        while not stop.is_set():
            for part in parts:
                await self._read_some(channel, part, handled, on_message)
            if not any(handled.values()):
                await asyncio.sleep(0.001)

    async def _read_some(
        self, channel: str, groups: list[str], handled: dict[str, list[bytes]], on_message: Callable[[], None]
    ) -> None:
        """Acknowledge what each group had before, and ask for its next batch, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        for group in groups:
            if handled.get(group):
                pipe.xack(channel, group, *handled.pop(group))
        for group in groups:
            pipe.xreadgroup(group, CONSUMER, {channel: ">"}, count=RAW_BATCH)
        answers = (await pipe.execute())[-len(groups) :]
        for group, answer in zip(groups, answers, strict=True):
            handled[group] = [entry_id for _, entries in answer for entry_id, _ in entries]
            for _ in handled[group]:
                on_message()

    async def announce_all(self, channel: str, count: int) -> None:
        await self.fill(channel, count)

    async def unread(self, channel: str) -> int:
        return await pending_of_all(self.client, channel)

    async def send_to(self, queues: Sequence[str]) -> None:
        pipe = self.client.pipeline(transaction=False)
        for queue in queues:
            pipe.xadd(queue, {FIELD: self.payload})
        await pipe.execute()


class RawHops(Raw):
    """Two hops: XADD to a parked XREADGROUP, and XADD back to a parked XREAD."""

    async def open(self) -> None:
        await super().open()
        pool = ConnectionPool.from_url(self.address, socket_timeout=30, max_connections=PUBLISHERS)
        self.senders = Redis.from_pool(pool)
        self.open_requests: dict[bytes, asyncio.Future[None]] = {}
        self.number = 0
        self.listener: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self.listener is not None:
            self.listener.cancel()
        await self.senders.aclose()
        await super().close()

    @asynccontextmanager
    async def answering(self, queue: str) -> AsyncIterator[None]:
        await self.prepare(queue)
        answerer = asyncio.create_task(self._answer(queue))
        try:
            yield
        finally:
            answerer.cancel()
            with suppress(asyncio.CancelledError):
                await answerer

    async def _answer(self, queue: str) -> None:
        while True:
            found: Any = await self.client.xreadgroup(
                GROUP, CONSUMER, {queue: ">"}, count=RAW_BATCH, block=5000
            )
            for _, entries in found:
                pipe = self.client.pipeline(transaction=False)
                for entry_id, fields in entries:
                    pipe.xadd(f"{queue}-replies", {FIELD: fields[FIELD.encode()], "to": fields[b"number"]})
                    pipe.xack(queue, GROUP, entry_id)
                await pipe.execute()

    async def ask(self, queue: str) -> None:
        if self.listener is None:
            self.listener = asyncio.create_task(self._listen(f"{queue}-replies"))
        self.number += 1
        number, answer = b"%d" % self.number, asyncio.get_running_loop().create_future()
        self.open_requests[number] = answer
        await self.senders.xadd(queue, {FIELD: self.payload, "number": number})
        await answer

    async def _listen(self, replies: str) -> None:
        last = b"0-0"
        while True:
            found: Any = await self.client.xread({replies: last}, count=RAW_BATCH, block=5000)
            for _, entries in found:
                for entry_id, fields in entries:
                    last = entry_id
                    self.open_requests.pop(fields[b"to"]).set_result(None)
