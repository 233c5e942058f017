"""An inbox on a real server for tests of single scripts, with the shortest ways to publish and to look."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentbus.broker.answers import RawEntry
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.inbox import Inbox
from agentbus.message.policy import PRIORITIES

WINDOW_MS = 3_600_000


class InboxBench:
    """One inbox, its publisher and the raw server."""

    def __init__(self, broker: Broker, address: str) -> None:
        self.broker = broker
        self.inbox = Inbox(broker, "scripts", address)
        self.keys = self.inbox.keys
        self._first = 1

    async def publish(
        self,
        *texts: str,
        lane: str = "normal",
        limit: int = 1_000_000,
        window: int = WINDOW_MS,
        **option: Any,
    ) -> list[str]:
        """Publish one batch; every message gets the same option."""
        given = {str(index): {"id": text, **option} for index, text in enumerate(texts, 1)} if option else {}
        answer = await self.inbox.publish(
            "p", self._first, str(PRIORITIES.index(lane)) * len(texts), json.dumps(given) if given else "",
            [text.encode() for text in texts], (600_000, limit, window),
        )  # fmt: skip
        assert answer.kind == "stored", answer
        self._first += len(texts)
        return [result.decode() for result in answer.results]

    async def call(self, *command: Any) -> Any:
        return await self.broker.execute(*command)

    async def ledger(self, name: str) -> int:
        return int(await self.call("HGET", self.keys.ledger, name) or 0)

    async def fetch(self, consumer: str = "c", most: int = 1000, most_bytes: int = 1 << 20) -> list[RawEntry]:
        return await self.inbox.fetch(consumer, most, most_bytes)

    async def texts(self, consumer: str = "c", most: int = 1000) -> list[str]:
        return [entry.message.decode() for entry in await self.fetch(consumer, most)]


@asynccontextmanager
async def bench(url: str, address: str) -> AsyncIterator[InboxBench]:
    """Open an inbox of its own with one consumer, ``c``; its keys are deleted afterwards."""
    broker = Broker(ConnectionSettings(url))
    found = InboxBench(broker, address)
    try:
        await found.inbox.join("c")
        yield found
    finally:
        names = await broker.execute("KEYS", f"scripts:{{{address}}}:*")
        if names:
            await broker.execute("UNLINK", *names)
        await broker.close()


def ids(entries: list[RawEntry]) -> dict[int, list[bytes]]:
    """Return entries as the verbs take them."""
    chosen: dict[int, list[bytes]] = {}
    for entry in entries:
        chosen.setdefault(entry.source, []).append(entry.entry_id)
    return chosen
