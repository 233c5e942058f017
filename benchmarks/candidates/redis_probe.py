"""Shared by the Redis-based candidates: groups made beforehand, pending entries counted."""

from __future__ import annotations

import contextlib

from redis.asyncio import Redis
from redis.exceptions import ResponseError


async def make_group(client: Redis, stream: str, group: str) -> None:
    """Create stream and consumer group from the beginning, as if a consumer had been there before."""
    with contextlib.suppress(ResponseError):  # it exists
        await client.xgroup_create(stream, group, id="0", mkstream=True)


async def pending(client: Redis, stream: str, group: str) -> int:
    """Entries delivered and not acknowledged."""
    summary = await client.xpending(stream, group)
    return int(summary["pending"])


async def pending_of_all(client: Redis, stream: str) -> int:
    """Entries that some group has not read, or not acknowledged."""
    groups = await client.xinfo_groups(stream)
    return sum(int(group["pending"]) + int(group["lag"] or 0) for group in groups)
