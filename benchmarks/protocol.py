"""What every measured system has to be able to do, in a form that keeps the comparison fair.

A candidate only says how *one* message is published with its durability confirmed, and how a handler is
attached that settles after it returned. Concurrency, counting and clocks are the same for all of them and
live in `measures`.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

BODY_BYTES = 250
PUBLISHERS = 500
"""Tasks that publish at once, each awaiting its message's confirmation before the next one."""

PUBLISH, CONSUME, BOTH, LATENCY = "publish", "consume", "both", "latency"
FAN_OUT, ROUND_TRIP, TO_MANY = "fan-out", "round trip", "to many"


def body() -> dict[str, str]:
    """A JSON object of exactly `BODY_BYTES` bytes in compact form."""
    frame = len(json.dumps({"task": ""}, separators=(",", ":")))
    return {"task": "x" * (BODY_BYTES - frame)}


def body_bytes() -> bytes:
    """The same body as bytes, for systems that carry bytes: they are not charged for serialising."""
    return json.dumps(body(), separators=(",", ":")).encode()


async def publish_concurrently(
    publish: Callable[[], object], count: int, publishers: int = PUBLISHERS
) -> None:
    """Let `publishers` tasks share `count` calls of `publish`, each awaiting its own before the next."""
    remaining = iter(range(count))

    async def publisher() -> None:
        for _ in remaining:
            await publish()  # type: ignore[misc]

    async with asyncio.TaskGroup() as group:
        for _ in range(min(publishers, count)):
            group.create_task(publisher())


class Candidate(ABC):
    """One system under test, alive inside one process for one measurement."""

    payload: Any
    """What is published: `body()`, or `body_bytes()` where the system carries bytes."""

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    async def open(self) -> None:
        """Connect. Not measured."""

    @abstractmethod
    async def close(self) -> None:
        """Give every connection back."""

    @abstractmethod
    async def prepare(self, queue: str) -> None:
        """Make the queue and its consumer group exist, so that nothing published is missed."""

    @abstractmethod
    async def publish(self, queue: str) -> None:
        """Publish one body and return when the broker has confirmed it."""

    @abstractmethod
    def consuming(self, queue: str, on_message: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Serve `queue` with an async handler that only calls `on_message`; settle after the handler."""

    @abstractmethod
    async def unsettled(self, queue: str) -> int:
        """How many delivered messages the broker still regards as in flight."""

    async def discard(self, queue: str) -> None:  # noqa: B027  (most have nothing to do)
        """Throw the queue away after its measurement. Redis is flushed by the runner instead."""

    async def publish_all(self, queue: str, count: int) -> None:
        """Publish `count` messages as an application with many tasks does."""
        await publish_concurrently(lambda: self.publish(queue), count)

    async def fill(self, queue: str, count: int) -> None:
        """Publish `count` messages as fast as possible, for a consumer to find. Not measured."""
        await self.publish_all(queue, count)

    def server_versions(self) -> dict[str, str]:
        """Name and version of the server, where the runner does not start it as a Redis."""
        return {}


class Broadcasting(Protocol):
    """What a system has to be able to do for the fan-out: one message, many subscribers."""

    async def open_channel(self, channel: str, subscribers: int) -> None:
        """Make what the system does not make by itself when somebody subscribes."""

    def subscribing(
        self, channel: str, numbers: range, on_message: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """Serve these subscribers, each with a durable cursor and an async handler; settle after it.

        Entered when nothing announced from now on is missed.
        """

    async def announce_all(self, channel: str, count: int) -> None:
        """Publish `count` messages once each, all confirmed, in the fastest way the system offers."""

    async def unread(self, channel: str) -> int:
        """How many deliveries of all subscribers together are not settled."""


class Asking(Protocol):
    """What a system has to be able to do for the round trips."""

    def answering(self, queue: str) -> AbstractAsyncContextManager[None]:
        """Answer every request on `queue` with its own body."""

    async def ask(self, queue: str) -> None:
        """Send one request and return when its answer is there."""


class ToMany(Protocol):
    """What a system has to be able to do for a message to many recipients."""

    async def prepare(self, queue: str) -> None:
        """Make the queue exist."""

    async def send_to(self, queues: Sequence[str]) -> None:
        """Send one body to all of these, confirmed."""
