"""A publisher process: sends its numbers in order and writes down what it was told about each.

It is killed and replaced. A successor reads what its forerunners wrote, sends again what they had no answer
to, and goes on with the next number.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from agentbus import Bus, BusSettings, PublisherSettings, PublishTimeout
from tests.chaos.checker import writer_and_number
from tests.chaos.gate import Gate
from tests.chaos.history import History, read_folder
from tests.chaos.opening import opened

LARGEST_CHUNK = 64
_PRIORITIES = ("critical", "high", "normal", "low", "background")
_WEIGHTS = (1, 3, 12, 3, 1)
_ANSWERS = ("stored", "refused", "uncertain")


async def run(
    *,
    url: str,
    folder: str,
    topic: str,
    writer: str,
    messages: int,
    idempotent: bool,
    deadline: float,
    seed: str,
    delay: float = 0.0,
) -> None:
    """Publish ``messages`` messages in all, forerunners included; ``idempotent`` gives each its key.

    ``delay`` and ``deadline`` in seconds.
    """
    place = Path(folder)
    repeat, next_number = inherited(place, writer)
    history = History(place, f"publisher-{writer}")
    settings = BusSettings(publisher=PublisherSettings(deadline=deadline))
    dice = random.Random(f"{seed} {writer} {next_number}")
    async with opened(Bus(url, agent=writer, settings=settings)) as bus:
        sender = _Sender(bus, history, topic, idempotent, delay)
        for chunk in chunks(repeat, dice):
            await sender.send(chunk)
        gate = Gate(place / "gate")
        async for numbers in released(gate, next_number, messages, dice):
            await sender.send([f"{writer}-{number}" for number in numbers])


async def released(gate: Gate, first: int, end: int, dice: random.Random) -> AsyncIterator[range]:
    """Yield the numbers from ``first`` to ``end`` in chunks, as the gate releases them."""
    while first < end:
        released = int(end * await gate.wait(first / end))
        until = min(released, first + dice.randint(1, LARGEST_CHUNK))
        if until > first:
            yield range(first, until)
            first = until
        else:
            # A share that is less than one message.
            await asyncio.sleep(0.02)


def inherited(folder: Path, writer: str) -> tuple[list[str], int]:
    """Return what forerunners had no answer to, and the first number nobody has tried."""
    tried: dict[str, bool] = {}
    for record in read_folder(folder, f"publisher-{writer}-*"):
        tried[record.key] = tried.get(record.key, False) or record.event in _ANSWERS
    highest = max((writer_and_number(key)[1] for key in tried), default=-1)
    return [key for key, answered in tried.items() if not answered], highest + 1


def chunks(keys: Sequence[str], dice: random.Random) -> Iterator[list[str]]:
    """Yield keys in portions of any size."""
    rest = list(keys)
    while rest:
        size = dice.randint(1, LARGEST_CHUNK)
        yield rest[:size]
        rest = rest[size:]


class _Sender:
    """Sends chunks of messages, with a line before and a line after for each of them."""

    def __init__(self, bus: Bus, history: History, topic: str, idempotent: bool, delay: float) -> None:
        self._bus = bus
        self._history = history
        self._topic = topic
        self._idempotent = idempotent
        # A channel takes no delay, not even none.
        self._later: dict[str, Any] = {"delay": delay} if delay else {}

    async def send(self, keys: Sequence[str]) -> None:
        """Send some messages; what was never sent because its deadline came first is tried again."""
        # The priority belongs to the message: a repeated one must be the same.
        by_priority: dict[str, list[str]] = {}
        for key in keys:
            chosen = random.Random(key).choices(_PRIORITIES, _WEIGHTS)[0]
            by_priority.setdefault(chosen, []).append(key)
        await asyncio.gather(
            *(self._send_until_tried(priority, chunk) for priority, chunk in by_priority.items())
        )

    async def _send_until_tried(self, priority: str, keys: list[str]) -> None:
        while keys:
            lines: list[dict[str, object]] = [{"key": key, "idempotent": self._idempotent} for key in keys]
            self._history.write_many("attempt", lines)
            results = await self._publish(priority, keys)
            keys = [key for key, result in zip(keys, results, strict=True) if self._note(key, result)]

    async def _publish(self, priority: Any, keys: list[str]) -> Sequence[Any]:
        if not self._idempotent:
            bodies = [{"key": key} for key in keys]
            return await self._bus.publish_many(self._topic, bodies, priority=priority, **self._later)
        results: list[Any] = await asyncio.gather(
            *(
                self._bus.publish(self._topic, {"key": key}, priority=priority, key=key, **self._later)
                for key in keys
            ),
            return_exceptions=True,
        )
        return results

    def _note(self, key: str, result: Any) -> bool:
        """Write down what became of a message; True when it was certainly not stored and is to be sent."""
        if not isinstance(result, Exception):
            self._history.write("stored", key=key, message_id=result.message_id, idempotent=self._idempotent)
            return False
        if isinstance(result, PublishTimeout) and result.uncertain:
            self._history.write("uncertain", key=key)
            return False
        self._history.write("refused", key=key, note=f"{type(result).__name__}: {result}")
        return isinstance(result, PublishTimeout)
