"""A sender process: writes to several agents, to one, or on topics that somebody is bound to.

As a publisher does it, with a line for each recipient: it is killed and replaced, and a successor sends again
what its forerunners had no answer to.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentbus import AgentBusError, Bus, BusSettings, PublisherSettings, PublishTimeout, Sent, Stored
from tests.chaos.checker import writer_and_number
from tests.chaos.gate import Gate
from tests.chaos.haste import hurry_debts
from tests.chaos.history import History
from tests.chaos.opening import opened
from tests.chaos.publisher import chunks, inherited, released

_TYPE = "task"


async def run(
    *,
    url: str,
    folder: str,
    writer: str,
    way: str,
    to: list[str],
    channel: str | None = None,
    messages: int,
    idempotent: bool,
    deadline: float,
    seed: str,
) -> None:
    """Send ``messages`` messages in all, forerunners included.

    ``way``: ``several`` sends each to all of the agents ``to``, in ``channel`` if there is one; ``direct`` to
    one of them in turn; ``topics`` publishes on the topics ``to`` in turn. ``deadline`` in seconds.
    """
    hurry_debts()
    place = Path(folder)
    repeat, next_number = inherited(place, writer)
    settings = BusSettings(publisher=PublisherSettings(deadline=deadline))
    dice = random.Random(f"{seed} {writer} {next_number}")
    async with opened(Bus(url, agent=writer, settings=settings)) as bus:
        history = History(place, f"publisher-{writer}")
        sender = Sender(bus, history, getattr(Ways(bus, to, channel), way), idempotent)
        for keys in chunks(repeat, dice):
            await sender.send(keys)
        async for numbers in released(Gate(place / "gate"), next_number, messages, dice):
            await sender.send([f"{writer}-{number}" for number in numbers])


class Ways:
    """How one message is sent; each way returns what the library said."""

    def __init__(self, bus: Bus, to: Sequence[str], channel: str | None) -> None:
        self._bus = bus
        self._to = to
        self._channel = channel

    async def several(self, key: str, /, **options: Any) -> Sent:
        """Send to all."""
        return await self._bus.send(_TYPE, {"key": key}, to=self._to, channel=self._channel, **options)

    async def direct(self, key: str, /, **options: Any) -> Sent:
        """Say it to one of them."""
        return await self._bus.dm(self._turn(key), {"key": key}, type=_TYPE, **options)

    async def topics(self, key: str, /, **options: Any) -> Stored:
        """Publish it on one of the topics."""
        return await self._bus.publish(self._turn(key), {"key": key}, **options)

    def _turn(self, key: str) -> str:
        _, number = writer_and_number(key)
        return self._to[number % len(self._to)]


class Sender:
    """Sends some messages at a time, with a line before and a line for each recipient after."""

    def __init__(self, bus: Bus, history: History, way: Any, idempotent: bool) -> None:
        self._history = history
        self._way = way
        self._idempotent = idempotent

    async def send(self, keys: Sequence[str]) -> None:
        """Send some messages; what was certainly not sent is tried again."""
        await asyncio.gather(*(self._send(key) for key in keys))

    async def _send(self, key: str) -> None:
        options = {"key": key} if self._idempotent else {}
        sent = False
        while not sent:
            self._history.write("attempt", key=key, idempotent=self._idempotent)
            try:
                answer = await self._way(key, **options)
            except AgentBusError as error:
                self._history.write(_event_of(error), key=key, note=f"{type(error).__name__}: {error}")
                sent = not _to_be_repeated(error)
            else:
                self._history.write_many("stored", _lines(key, answer))
                sent = True


def _event_of(error: Exception) -> str:
    return "uncertain" if isinstance(error, PublishTimeout) and error.uncertain else "refused"


def _to_be_repeated(error: Exception) -> bool:
    return isinstance(error, PublishTimeout) and not error.uncertain


def _lines(key: str, answer: Sent | Stored) -> Iterator[dict[str, object]]:
    """Yield that it is stored, then what became of it at each recipient; `History.write_many` takes them."""
    common: dict[str, object] = {"key": key, "message_id": answer.message_id}
    yield common
    if isinstance(answer, Stored):
        for refused in answer.refused_copies:
            yield {**common, "event": "refused", "agent": refused.agent, "note": refused.reason}
        return
    for each in answer.recipients:
        if each.error is None:
            yield {**common, "agent": each.agent}
        else:
            problem = f"{type(each.error).__name__}: {each.error}"
            yield {**common, "event": _event_of(each.error), "agent": each.agent, "note": problem}
