"""An inbox whose messages end as a test says, for tests of the history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentbus import Bus, HistoryEntry, HistoryPage
from agentbus.broker.answers import RawEntry
from agentbus.broker.inbox import Inbox


class Past:
    """One inbox with one consumer, ``c``, which holds what it fetched until told otherwise."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.name = name
        self.address = f"agent.{name}"
        self.inbox = Inbox(bus.rooms.broker, bus.settings.prefix, self.address)
        self.keys = self.inbox.keys
        self.held: list[RawEntry] = []

    async def open(self) -> Past:
        await self.inbox.join("c")
        return self

    async def call(self, *command: Any) -> Any:
        return await self.bus.rooms.broker.execute(*command)

    async def publish(self, *bodies: Any, kind: str = "task", **options: Any) -> list[str]:
        """Publish, and return the message ids."""
        stored = [await self.bus.publish(f"{self.address}.{kind}", body, **options) for body in bodies]
        return [one.message_id for one in stored]

    async def fetch(self, most: int = 1000) -> list[RawEntry]:
        taken = await self.inbox.fetch("c", most, 1 << 20)
        self.held += taken
        return taken

    async def settle(self, entries: Sequence[RawEntry], outcome: str = "processed") -> None:
        ids: dict[int, list[bytes]] = {}
        for entry in entries:
            ids.setdefault(entry.source, []).append(entry.entry_id)
            self.held.remove(entry)
        if ids:
            await self.inbox.settle("c", outcome, ids)

    async def end(self, *bodies: Any, kind: str = "task", **options: Any) -> list[str]:
        """Publish messages that are processed one after the other; returns their ids."""
        found = []
        for body in bodies:
            found += await self.publish(body, kind=kind, **options)
            await self.settle(await self.fetch())
        return found

    async def page(self, limit: int = 100, cursor: str | None = None, **filters: Any) -> HistoryPage:
        return await self.bus.history(self.address, limit=limit, cursor=cursor, **filters)

    async def pages(self, limit: int = 100, **filters: Any) -> list[HistoryPage]:
        found = [await self.page(limit, **filters)]
        while found[-1].next is not None:
            found.append(await self.page(limit, found[-1].next, **filters))
            assert len(found) < 10_000
        return found

    async def all(self, limit: int = 100, **filters: Any) -> list[HistoryEntry]:
        return [entry for page in await self.pages(limit, **filters) for entry in page.entries]


def bodies(entries: Sequence[HistoryEntry]) -> list[Any]:
    """Return the contents of entries."""
    return [None if entry.message is None else entry.message.content for entry in entries]
