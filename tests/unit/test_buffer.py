"""The bounded buffer: it holds callers back, forgets none of them and never drops."""

from __future__ import annotations

import asyncio

import pytest

from agentbus.errors import PublishTimeout
from agentbus.send.buffer import Buffer


def far() -> float:
    return asyncio.get_running_loop().time() + 60


async def waiting(buffer: Buffer, count: int) -> list[asyncio.Task[None]]:
    async def enter() -> None:
        if not buffer.has_room:
            await buffer.wait_room(far())
        buffer.add(1)

    tasks = [asyncio.create_task(enter()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_it_is_full_by_count_and_by_bytes() -> None:
    buffer = Buffer(2, 100)
    buffer.add(1)
    assert buffer.has_room
    buffer.add(1)
    assert not buffer.has_room
    buffer.remove(2, 2)
    buffer.add(100)
    assert not buffer.has_room


async def test_callers_come_in_as_others_leave_and_never_too_many() -> None:
    buffer = Buffer(3, 1000)
    tasks = await waiting(buffer, 10)
    assert buffer.messages == 3
    most = 0
    async with asyncio.timeout(5):
        while not all(task.done() for task in tasks):
            buffer.remove(1, 1)
            for _ in range(3):
                await asyncio.sleep(0)
            most = max(most, buffer.messages)
    assert most <= 3


async def test_a_newcomer_does_not_overtake() -> None:
    buffer = Buffer(1, 100)
    tasks = await waiting(buffer, 2)
    buffer.remove(1, 1)
    # The place belongs to the one who waited, who has not run yet.
    tasks += await waiting(buffer, 1)
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, True, False]
    tasks[2].cancel()


async def test_one_who_was_admitted_and_cancelled_passes_the_place_on() -> None:
    buffer = Buffer(1, 100)
    first, second, third = await waiting(buffer, 3)
    buffer.remove(1, 1)
    second.cancel()
    async with asyncio.timeout(1):
        await third
    assert first.done()


async def test_many_small_callers_take_the_place_of_one_big_message() -> None:
    buffer = Buffer(100, 50)
    buffer.add(50)
    tasks = await waiting(buffer, 20)
    buffer.remove(1, 50)
    async with asyncio.timeout(1):
        await asyncio.gather(*tasks)


async def test_a_passed_deadline_raises_and_says_that_nothing_was_sent() -> None:
    buffer = Buffer(1, 100)
    buffer.add(1)
    now = asyncio.get_running_loop().time()
    late = asyncio.create_task(buffer.wait_room(now + 5))
    patient = asyncio.create_task(buffer.wait_room(now + 50))
    await asyncio.sleep(0)
    buffer.expire(now + 10)
    with pytest.raises(PublishTimeout, match="nothing of this message was sent") as raised:
        await late
    assert not raised.value.uncertain
    assert not patient.done()
    with pytest.raises(PublishTimeout):
        await buffer.wait_room(now - 1)
    patient.cancel()
