"""The archive as the history reads it: opened when the first page needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentbus.history.stores import ArchivedEnds


@asynccontextmanager
async def open_archive(dsn: str | None) -> AsyncIterator[ArchivedEnds | None]:
    """Open the archive of a connection string; None without one."""
    yield None
