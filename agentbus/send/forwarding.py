"""What follows when an address has stored a message: copies elsewhere, in order, holding up nobody else.

What is copied where is no concern of the way out; it is handed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Protocol

from agentbus.message.copies import NO_COPIES, Arrival, Copies
from agentbus.message.policy import PRIORITIES
from agentbus.send.buffer import Buffer
from agentbus.send.stored import Stored, Waiting

#: A caller, and what it is to be told.
Told = tuple[Waiting, Stored | Exception]
#: Seconds in which copies are made of a stored message whose caller has gone.
_PATIENCE = 30.0


class Forwarding(Protocol):
    """Who knows what is copied where, and does it."""

    @property
    def fresh(self) -> bool:
        """Whether a batch may be sent without asking; one comparison of clocks."""

    async def ensure_fresh(self) -> None:
        """Ask; raises `BrokerError`, and then nothing may be sent."""

    def begin_anew(self) -> None:
        """Forget what belongs to another process or event loop."""

    async def close(self) -> None:
        """Wait for what was begun."""

    @property
    def quiet(self) -> bool:
        """Whether nothing is copied at all."""

    def owed(self, topics: Set[str]) -> Mapping[str, Sequence[str]]:
        """Return, by topic, the agents to which copies are owed as soon as a message of it is stored."""

    async def expect(self, address: str, again: bool) -> None:
        """Say that copies may be owed at an address, before the first of them is; raises `BrokerError`."""

    def concerns(self, topic: str) -> bool:
        """Whether messages of a topic are copied."""

    def overdue(self, topic: str) -> Copies:
        """Return what a caller is told whose deadline passes before the copies are made."""

    async def forward(self, arrivals: Sequence[Arrival]) -> list[Copies]:
        """Make the copies; what fails is told, not raised."""


class NoForwarding:
    """For a publisher by itself, and tests: nothing is copied."""

    fresh = quiet = True

    async def ensure_fresh(self) -> None:
        """Nothing to ask."""

    def begin_anew(self) -> None:
        """Nothing to forget."""

    async def close(self) -> None:
        """Nothing to wait for."""

    def owed(self, topics: Set[str]) -> Mapping[str, Sequence[str]]:
        """Nothing."""
        return {}

    async def expect(self, address: str, again: bool) -> None:
        """Never called: nothing is owed."""

    def concerns(self, topic: str) -> bool:
        """No."""
        return False

    def overdue(self, topic: str) -> Copies:
        """Never called: nothing is concerned."""
        return NO_COPIES

    async def forward(self, arrivals: Sequence[Arrival]) -> list[Copies]:
        """Never called: nothing is concerned."""
        return [NO_COPIES for _ in arrivals]


class Followers:
    """What follows the batches of one address."""

    def __init__(self, forwarding: Forwarding, buffer: Buffer) -> None:
        self._forwarding = forwarding
        self._buffer = buffer
        # Copies are made in the order in which their messages were stored.
        self._in_order = asyncio.Lock()

    def concerned(self, told: Iterable[Told]) -> tuple[list[tuple[Waiting, Stored]], list[Told]]:
        """Return the messages that are copied, and the others. Those are still counted as buffered."""
        concerned: list[tuple[Waiting, Stored]] = []
        others: list[Told] = []
        for part, result in told:
            if isinstance(result, Stored) and self._forwarding.concerns(_topic(part)):
                self._buffer.add(len(part.outgoing.text))
                concerned.append((part, result))
            else:
                others.append((part, result))
        return concerned, others

    async def follow(
        self, concerned: Sequence[tuple[Waiting, Stored]], tell: Callable[[Iterable[Told]], None]
    ) -> None:
        """Have them copied, then tell their callers. It goes on when these have gone."""
        loop = asyncio.get_running_loop()
        overdue = [
            # Its own deadline ends a caller's wait, whatever is before it in the queue.
            loop.call_at(part.until, part.answer, self._with(stored, self._forwarding.overdue(_topic(part))))
            for part, stored in concerned
        ]
        try:
            async with self._in_order:
                latest = loop.time() + _PATIENCE
                copies = await self._forwarding.forward([_arrival(*one, latest) for one in concerned])
        except BaseException:
            for part, stored in concerned:
                part.answer(stored)
            raise
        finally:
            for timer in overdue:
                timer.cancel()
            self._buffer.remove(len(concerned), sum(len(part.outgoing.text) for part, _ in concerned))
        results = zip(concerned, copies, strict=True)
        tell([(part, self._with(stored, made)) for (part, stored), made in results])

    @staticmethod
    def _with(stored: Stored, copies: Copies) -> Stored:
        return stored._replace(copies=copies.made, refused_copies=copies.refused)


def _topic(part: Waiting) -> str:
    return part.outgoing.destination.topic


def _arrival(part: Waiting, stored: Stored, latest: float) -> Arrival:
    outgoing = part.outgoing
    option = outgoing.option or {}
    destination = outgoing.destination
    priority = PRIORITIES[outgoing.lane]
    lane = "log" if destination.is_channel else priority
    return Arrival(
        topic=destination.topic,
        address=destination.address,
        message_id=outgoing.message_id,
        text=outgoing.text,
        priority=priority,
        until=latest if part.gone else part.until,
        place=None if stored.entry_id is None else f"{lane}:{stored.entry_id}",
        key=option.get("key"),
        repeated=stored.duplicate,
        delay_ms=option.get("delay"),
        at_ms=option.get("at"),
        ttl_ms=option.get("ttl"),
    )
