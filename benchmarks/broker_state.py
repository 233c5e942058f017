"""The runner's own look at the Redis of the run: flush it, keep its log short, weigh it."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

LONGEST_LOG = 256 * 1024 * 1024


class BrokerState:
    """A connection of the runner; the measured processes have their own."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, socket_timeout=60)

    async def close(self) -> None:
        await self._client.aclose()

    async def clean(self) -> None:
        """Empty the server, and its append-only file when it has grown long; both between rounds."""
        await self._client.flushall()
        info = await self._client.info("persistence")
        if info["aof_current_size"] > LONGEST_LOG:
            await self._client.bgrewriteaof()
            while (await self._client.info("persistence"))["aof_rewrite_in_progress"]:
                await asyncio.sleep(0.05)

    async def used_memory(self) -> int:
        """Bytes that the data set takes, without the server's own buffers for clients."""
        stats = await self._client.memory_stats()
        return int(stats["dataset.bytes"])

    async def processor_seconds(self) -> float:
        """Processor time that the server has used so far."""
        info = await self._client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    async def name_and_version(self) -> tuple[str, str]:
        """Kind of server (redis or valkey) and its version."""
        info = await self._client.info("server")
        kind = "valkey-server" if "valkey_version" in info else "redis-server"
        return kind, str(info.get("valkey_version", info["redis_version"]))

    async def stored_text(self, pattern: str) -> int:
        """Bytes of all field values of the first entry of the first stream that matches."""
        async for key in self._client.scan_iter(match=pattern, _type="stream"):
            entries: list[Any] = await self._client.xrange(key, count=1) or []
            for _, fields in entries:
                return sum(len(value) for value in fields.values())
        return 0
