"""What the tests of the way out share: a publisher with its parts in reach, and eyes on the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio

from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import InboxKeys, inbox_keys
from agentbus.broker.scripts import load
from agentbus.events import Event, Events
from agentbus.send.envelope import Sender
from agentbus.send.publisher import Publisher
from agentbus.settings import PublisherSettings

PREFIX = "agentbus"


@dataclass(slots=True)
class Office:
    """A publisher, what it is made of, and what it had to say."""

    publisher: Publisher
    broker: Broker
    events: Events
    heard: list[Event] = field(default_factory=list)

    def said(self, action: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.heard if event.action == action]


@asynccontextmanager
async def open_office(
    url: str,
    *,
    agent: str | None = "tester",
    command_timeout: float = 1.0,
    most_links: int = 16,
    **settings: Any,
) -> AsyncIterator[Office]:
    """Open a publisher; ``settings`` are those of `PublisherSettings`."""
    events = Events()
    broker = Broker(
        ConnectionSettings(
            url, command_timeout=command_timeout, connect_timeout=command_timeout, most_links=most_links
        )
    )
    chosen = PublisherSettings(**{"deadline": 10.0, **settings})
    office = Office(Publisher(broker, PREFIX, Sender(agent, agent), chosen, events), broker, events)
    events.listen(office.heard.append)
    try:
        yield office
    finally:
        await office.publisher.close()
        await broker.close()


@dataclass(frozen=True, slots=True)
class Eyes:
    """Looks at one address past agentbus, with a plain client."""

    client: Any
    keys: InboxKeys

    async def bodies(self) -> list[Any]:
        """Return the content of every entry in the lanes, critical first."""
        found = []
        for stream in self.keys.priority_lanes:
            for _, fields in await self.client.xrange(stream):
                found.append(json.loads(fields[b"message"])["body"]["content"])
        return found

    async def ledger(self) -> dict[str, int]:
        """Return the counters."""
        stored = await self.client.hgetall(self.keys.ledger)
        return {name.decode(): int(value) for name, value in stored.items()}


@asynccontextmanager
async def look_at(url: str, address: str) -> AsyncIterator[Eyes]:
    """Look at an address."""
    client = redis.asyncio.Redis.from_url(url, protocol=2)
    try:
        yield Eyes(client, inbox_keys(PREFIX, address))
    finally:
        await client.aclose()


def inbox_of(office: Office, address: str) -> Inbox:
    """Return the inbox of an address, for calls that a publisher would not make."""
    return Inbox(office.broker, PREFIX, address)


def is_publish(request: bytes) -> bool:
    """Whether a request runs the publish script."""
    return load("publish").digest.encode() in request or b"Stores one frozen batch" in request


def once(match: Callable[[bytes], bool], times: int = 1) -> Callable[[bytes], bool]:
    """Match only the first requests that ``match`` does."""
    left = times

    def matches(request: bytes) -> bool:
        nonlocal left
        if left and match(request):
            left -= 1
            return True
        return False

    return matches


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 10.0
) -> None:
    """Wait for a condition; fails the test, saying ``what`` was waited for, when it does not come."""
    deadline = time.monotonic() + seconds
    while True:
        met = condition()
        if not isinstance(met, bool):
            met = await met
        if met:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds} s: {what}")
        await asyncio.sleep(0.005)
