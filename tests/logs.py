"""The log of a channel on a real server, for tests of what an agent's consumers do at it step by step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentbus.broker.answers import RawEntry
from agentbus.broker.carry import Carrier
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.keys import subscriber_keys
from agentbus.broker.subscription import LOG, Gap, Subscription
from agentbus.broker.wake import Announcer
from agentbus.events import Events
from tests.agents.channel_look import ChannelLook
from tests.inboxes import WINDOW_MS, InboxBench

PREFIX = "scripts"


class LogBench:
    """A channel, an agent with an inbox, and whoever reads for it."""

    def __init__(self, broker: Broker, channel: str, agent: str) -> None:
        self.broker = broker
        self.channel = channel
        self.agent = agent
        self.keys = subscriber_keys(PREFIX, channel, agent)
        self.look = ChannelLook(broker, PREFIX, channel, agent)
        self.inbox = InboxBench(broker, f"agent.{agent}")
        self.told: list[Gap] = []
        self.place = self.subscription()

    def subscription(self, in_order: bool = True, start: str = "0") -> Subscription:
        """Return the place of one more process."""
        carrier = Carrier(self.broker, PREFIX, WINDOW_MS, Announcer(self.broker, PREFIX, Events()))
        return Subscription(
            self.broker, PREFIX, self.channel, self.agent, start, in_order, carrier, self.told.append
        )

    async def write(self, *bodies: Any, **envelope: Any) -> None:
        """Add messages to the log, as any client can."""
        for body in bodies:
            text = {"message_id": f"m{body}", "message_type": "note", "body": {"content": body}, **envelope}
            await self.call("XADD", self.keys.log, "*", "message", json.dumps(text))

    async def call(self, *command: Any) -> Any:
        return await self.broker.execute(*command)

    async def fetch(
        self, consumer: str, most: int = 100, place: Subscription | None = None
    ) -> list[RawEntry]:
        return await (place or self.place).fetch(consumer, most, 1 << 20)

    async def bodies(self, consumer: str, most: int = 100, place: Subscription | None = None) -> list[Any]:
        return [body(entry) for entry in await self.fetch(consumer, most, place)]

    async def settle(self, consumer: str, *entries: RawEntry) -> int:
        return await self.place.settle(consumer, "processed", {LOG: [entry.entry_id for entry in entries]})

    async def die(self, consumer: str) -> None:
        """Take a consumer for dead."""
        beat = (await self.place.beats())[consumer]
        assert await self.place.reclaim(consumer, beat) is not None

    async def keep(self, count: int) -> None:
        """Trim the log to its last entries."""
        await self.call("XTRIM", self.keys.log, "MAXLEN", count)


def body(entry: RawEntry) -> Any:
    """Return what a message says."""
    return json.loads(entry.message)["body"]["content"]


def state(entry: RawEntry) -> dict[str, Any]:
    """Return what is kept beside an entry."""
    found: dict[str, Any] = json.loads(entry.state or "{}")
    return found


@asynccontextmanager
async def log_bench(url: str, channel: str, agent: str) -> AsyncIterator[LogBench]:
    """Open a channel of one's own, with a consumer ``c`` of the agent's inbox; its keys are deleted after."""
    broker = Broker(ConnectionSettings(url))
    found = LogBench(broker, channel, agent)
    try:
        await found.inbox.inbox.join("c")
        yield found
    finally:
        for address in (channel, f"agent.{agent}"):
            names = await broker.execute("KEYS", f"{PREFIX}:{{{address}}}:*")
            if names:
                await broker.execute("UNLINK", *names)
        await broker.close()
