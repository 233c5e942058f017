"""Opening a bus while its broker may be away: a replacement can be born between two lives of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentbus import BrokerUnavailable, Bus


@asynccontextmanager
async def opened(bus: Bus) -> AsyncIterator[Bus]:
    """Open a bus as soon as the broker answers; close it at the end."""
    while True:
        try:
            await bus.open()
            break
        except BrokerUnavailable:
            await asyncio.sleep(0.05)
    try:
        yield bus
    finally:
        await bus.close()
