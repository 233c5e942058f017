"""Commands of one turn of the event loop leave together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agentbus.broker.gathering import Gathering
from agentbus.errors import BrokerRefused, BrokerUnavailable


class Wire:
    """Notes what leaves together; answers a command with itself, or as it is told."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.failure: Exception | None = None
        self.refused: set[bytes] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.slots = asyncio.Semaphore(3)
        self.gathering = Gathering(self.slots, self.exchange)

    async def exchange(self, packed: Sequence[bytes]) -> list[Any]:
        self.writes.append(list(packed))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [BrokerRefused(each.decode()) if each in self.refused else each for each in packed]

    async def say(self, packed: bytes) -> Any:
        if self.gathering.leaves_alone(packed):
            async with self.slots:
                return (await self.exchange([packed]))[0]
        return await self.gathering.add(packed)

    async def say_all(self, *words: bytes) -> list[Any]:
        return await asyncio.gather(*(self.say(word) for word in words), return_exceptions=True)


async def test_the_first_of_a_turn_leaves_by_itself_and_the_others_together() -> None:
    wire = Wire()
    assert await wire.say_all(b"a", b"b", b"c") == [b"a", b"b", b"c"]
    assert wire.writes == [[b"a"], [b"b", b"c"]]


async def test_what_is_said_one_after_the_other_waits_for_nobody() -> None:
    wire = Wire()
    for word in (b"a", b"b", b"c"):
        assert await wire.say(word) == word
        await asyncio.sleep(0)
    assert wire.writes == [[b"a"], [b"b"], [b"c"]]


async def test_a_refusal_is_told_to_the_one_whose_command_it_was() -> None:
    wire = Wire()
    wire.refused = {b"b"}
    _, refused, answered = await wire.say_all(b"a", b"b", b"c")
    assert isinstance(refused, BrokerRefused)
    assert answered == b"c"


async def test_an_outage_is_told_to_everybody_with_what_is_known_of_it() -> None:
    wire = Wire()
    wire.failure = BrokerUnavailable("away", uncertain=True)
    _, one, other = await wire.say_all(b"a", b"b", b"c")
    assert isinstance(one, BrokerUnavailable) and one.uncertain
    assert isinstance(other, BrokerUnavailable) and other.uncertain
    # Each has its own: raised in several tasks, one would collect the tracebacks of all.
    assert one is not other


async def test_who_gives_up_before_the_turn_ends_has_sent_nothing() -> None:
    wire = Wire()
    tasks = [asyncio.create_task(wire.say(word)) for word in (b"a", b"b", b"c")]
    asyncio.get_running_loop().call_soon(tasks[1].cancel)
    await asyncio.wait(tasks)
    assert wire.writes == [[b"a"], [b"c"]]


async def test_who_gives_up_later_takes_nothing_from_the_others() -> None:
    wire = Wire()
    wire.open.clear()
    tasks = [asyncio.create_task(wire.say(word)) for word in (b"a", b"b", b"c")]
    while len(wire.writes) < 2:
        await asyncio.sleep(0)
    tasks[1].cancel()
    wire.open.set()
    await asyncio.wait(tasks)
    assert tasks[1].cancelled() and tasks[2].result() == b"c"


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ([b"%d" % number for number in range(300)], [1, 128, 128, 43]),
        ([b"x" * 60_000] * 10, [1, 4, 4, 1]),
        ([b"small", b"x" * 70_000, b"small"], [1, 1, 1]),
    ],
)
async def test_what_leaves_together_is_bounded(words: list[bytes], sizes: list[int]) -> None:
    wire = Wire()
    assert await wire.say_all(*words) == words
    assert [len(write) for write in wire.writes] == sizes


async def test_what_waits_for_a_connection_leaves_together_when_one_is_free() -> None:
    """Also what was said in different turns: the queue never grows by one write for each of them."""
    wire = Wire()
    wire.open.clear()
    tasks = [asyncio.create_task(wire.say(b"first"))]
    for number in range(100):
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(wire.say(b"%d" % number)))
    while len(wire.writes) < 3:
        await asyncio.sleep(0)
    assert sum(map(len, wire.writes)) < 10
    wire.open.set()
    await asyncio.wait(tasks)
    assert [task.result() for task in tasks] == [b"first", *(b"%d" % number for number in range(100))]
    assert len(wire.writes) < 8


async def test_nobody_is_left_waiting_by_a_close() -> None:
    wire = Wire()
    wire.slots = asyncio.Semaphore(2)
    wire.gathering = Gathering(wire.slots, wire.exchange)
    wire.open.clear()
    tasks = [asyncio.create_task(wire.say(word)) for word in (b"a", b"b")]
    while len(wire.writes) < 2:
        await asyncio.sleep(0)
    tasks.append(asyncio.create_task(wire.say(b"c")))
    await asyncio.sleep(0)
    await wire.gathering.close()
    for task, uncertain in zip(tasks[1:], (True, False), strict=True):
        with pytest.raises(BrokerUnavailable) as caught:
            await task
        assert caught.value.uncertain == uncertain
    wire.open.set()
    assert await tasks[0] == b"a"
