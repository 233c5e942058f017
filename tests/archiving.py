"""Archives an address step by step, as the worker does, for tests of what is read afterwards."""

from __future__ import annotations

from agentbus import Bus
from agentbus.archive.connection import Database
from agentbus.archive.migrations import migrate
from agentbus.archive.writer import ArchiveWriter
from agentbus.broker.archiving import ArchivedChannel, ArchivedInbox


class Archivist:
    """Takes what has ended at the addresses of one bus into one database."""

    def __init__(self, bus: Bus, database: Database) -> None:
        self._bus = bus
        self._database = database
        self._writer = ArchiveWriter(database, bus.settings.prefix)

    async def open(self) -> Archivist:
        await migrate(self._database)
        return self

    async def records(self, address: str, most: int = 1000, advance: bool = True) -> None:
        """Archive up to ``most`` records of an inbox; without ``advance`` as if killed after the commit."""
        inbox = ArchivedInbox(self._bus.rooms.broker, self._bus.settings.prefix, address)
        start = (await inbox.position()).to
        page = await inbox.records(start, most)
        async for chunk in inbox.bodies(page.records):
            await self._writer.write(chunk)
        if advance:
            await inbox.advance(start, page.to, sum(record.count for record in page.records))

    async def log(self, address: str) -> None:
        """Archive what a channel's log holds."""
        channel = ArchivedChannel(self._bus.rooms.broker, self._bus.settings.prefix, address)
        start = (await channel.position()).to
        page = await channel.messages(start)
        await self._writer.write(page.messages)
        await channel.advance(start, page.to, len(page.messages))
