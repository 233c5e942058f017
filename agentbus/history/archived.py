"""The archive as the history reads it: connected when the first page needs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentbus.broker.inspection.found import Place
from agentbus.broker.inspection.kept import Kept, Point, Stretch, Window
from agentbus.errors import MalformedMessage
from agentbus.history.query import HistoryQuery
from agentbus.message.codec import decode
from agentbus.message.message import Message

if TYPE_CHECKING:
    from agentbus.archive.connection import Database
    from agentbus.archive.reader import ArchivedMessage, ArchiveReader


class LazyArchive:
    """One deployment's archive. Nothing of it is imported or connected before somebody asks."""

    def __init__(self, dsn: str, prefix: str) -> None:
        self._dsn = dsn
        self._prefix = prefix
        self._database: Database | None = None
        self._reads: ArchiveReader | None = None

    async def edge(self, address: str, *, newest: bool) -> Point | None:
        """Return the point of the newest or the oldest message it has; None when it has none."""
        return await self._reader().edge(address, newest=newest)

    async def count(self, address: str, window: Window) -> int:
        """Count its messages in a window."""
        return await self._reader().count(address, window)

    async def read(self, query: HistoryQuery, window: Window, most: int) -> Stretch:
        """Return the next messages of a window that match a query."""
        from agentbus.archive.reader import ArchiveQuery

        asked = ArchiveQuery(
            query.address, window, query.type, query.sender, query.outcome, query.grep, query.correlation_id
        )
        part = await self._reader().part(asked, most)
        return Stretch([_kept(one) for one in part.messages], part.resume)

    async def conversation(self, correlation_id: str, most: int) -> list[tuple[Message, Place]]:
        """Return the messages of a conversation with how they ended."""
        rows = await self._reader().conversation(correlation_id, most)
        found = []
        for row in rows:
            # What can be asked for by correlation id is JSON, and may be no message all the same.
            with contextlib.suppress(MalformedMessage):
                found.append((decode(row.message), _place(row)))
        return found

    async def close(self) -> None:
        """Disconnect; the next call connects again."""
        database, self._database, self._reads = self._database, None, None
        if database is not None:
            await database.close()

    def _reader(self) -> ArchiveReader:
        from agentbus.archive.connection import Database
        from agentbus.archive.reader import ArchiveReader

        if self._reads is None:
            self._database = Database(self._dsn)
            self._reads = ArchiveReader(self._database, self._prefix)
        return self._reads


@asynccontextmanager
async def open_archive(dsn: str | None, prefix: str) -> AsyncIterator[LazyArchive | None]:
    """Open the archive of a connection string; None without one."""
    archive = LazyArchive(dsn, prefix) if dsn else None
    try:
        yield archive
    finally:
        if archive is not None:
            await archive.close()


def _place(row: ArchivedMessage) -> Place:
    kept = _kept(row)
    return Place(
        row.address, kept.status, kept.stream, kept.entry_id, kept.at_ms, kept.consumer or None, kept.outcome,
        kept.detail, kept.attempts or 0, kept.state,
    )  # fmt: skip


def _kept(row: ArchivedMessage) -> Kept:
    detail = row.details.get("resolution")
    return Kept(
        point=row.point,
        status="logged" if row.stream == "log" else "ended",
        stream=row.stream,
        entry_id=row.entry_id,
        at_ms=row.ended_ms,
        text=row.message,
        outcome="" if row.stream == "log" else row.outcome,
        consumer=row.consumer,
        detail=detail if isinstance(detail, str) else "",
        state=row.state,
        attempts=row.attempts,
    )
