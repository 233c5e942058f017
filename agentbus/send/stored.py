"""What became of a published message, and those who wait to hear it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from agentbus.message.copies import RefusedCopy
from agentbus.message.policy import Durability
from agentbus.send.envelope import Outgoing


class Stored(NamedTuple):
    """A message that the broker has accepted."""

    message_id: str
    address: str
    #: The entry in its lane; None for a delayed message, or when only a repeated batch was confirmed.
    entry_id: str | None
    #: The level of durability reached.
    durability: Durability
    #: Whether anybody has ever served the address.
    known: bool
    #: True when the key was used before with the same message: nothing new was stored.
    duplicate: bool = False
    #: How many agents have a copy of it because they are bound to its topic.
    copies: int = 0
    #: Agents that are bound to its topic and have none, each with the reason.
    refused_copies: tuple[RefusedCopy, ...] = ()


@dataclass(slots=True, eq=False)
class Waiting:
    """One caller of `publish` and the message it waits for."""

    outgoing: Outgoing
    #: Loop time at which the caller gives up.
    until: float
    future: asyncio.Future[Stored]

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done()

    def answer(self, result: Stored | Exception) -> None:
        """Tell the caller."""
        if not self.future.done():
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)


class Part(Waiting):
    """One message of a `publish_many`."""

    __slots__ = ("answered", "collector", "index")

    def __init__(self, outgoing: Outgoing, until: float, collector: Collector, index: int) -> None:
        self.outgoing = outgoing
        self.until = until
        self.collector = collector
        self.index = index
        self.answered = False

    @property
    def gone(self) -> bool:
        """Whether this part was answered, or its caller went away."""
        return self.answered or self.collector.abandoned

    def answer(self, result: Stored | Exception) -> None:
        """Put the result into its place."""
        if not self.answered:
            self.answered = True
            self.collector.put(self.index, result)


class Collector:
    """Gathers the results of one `publish_many`: one future for all instead of one for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.results: list[Stored | Exception] = []
        self._open = 0
        self._complete = False
        self._done = loop.create_future()

    def add(self, outgoing: Outgoing, until: float) -> Part:
        """Return the part for one more message."""
        part = Part(outgoing, until, self, len(self.results))
        self.results.append(_UNANSWERED)
        self._open += 1
        return part

    def put(self, index: int, result: Stored | Exception) -> None:
        """Take one result."""
        self.results[index] = result
        self._open -= 1
        self._check()

    async def finish(self) -> list[Stored | Exception]:
        """Take no more messages, and return the results when every message has one."""
        self._complete = True
        self._check()
        await self._done
        return self.results

    def abandon(self) -> None:
        """Nobody waits for the results any more; a cancelled `finish` does the same."""
        self._done.cancel()

    @property
    def abandoned(self) -> bool:
        """Whether the caller went away."""
        return self._done.cancelled()

    def _check(self) -> None:
        if self._complete and self._open == 0 and not self._done.done():
            self._done.set_result(None)


_UNANSWERED = RuntimeError("not answered yet")
