"""Fetch: its order, its bounds, and lanes that somebody broke."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus.broker.keys import SOURCES
from agentbus.errors import GroupMissing, WrongKeyType
from agentbus.message.policy import PRIORITIES
from agentbus.testing import BrokerForTests
from tests.inboxes import InboxBench, bench, ids
from tests.model import Message, merged


@pytest.fixture
async def on(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[InboxBench]:
    async with bench(broker.url, f"agent.{unique('fetch')}") as opened:
        yield opened


async def fill(on: InboxBench, seed: int, spread_ms: int) -> dict[str, list[Message]]:
    """Backdate entries in all five lanes, some into the future; equal times are frequent."""
    chance = random.Random(seed)
    now = int(time.time() * 1000)
    heads: dict[str, list[Message]] = {}
    for index, lane in enumerate(PRIORITIES, 1):
        times = sorted(now - chance.randint(-spread_ms // 4, spread_ms) // 100 * 100 for _ in range(25))
        for number, at in enumerate(times):
            message = Message(f"{lane}{number}", lane, source=index, entry=(at, number))
            await on.call("XADD", on.keys.sources[index], f"{at}-{number}", "message", message.tag)
            heads.setdefault(lane, []).append(message)
    await on.inbox.sweep()
    return heads


@pytest.mark.parametrize("seed", range(12))
async def test_five_lanes_are_served_in_the_order_of_the_rule(on: InboxBench, seed: int) -> None:
    # Spreads around the allowances, so that lanes take turns. Two clocks: this one and the server's.
    heads = await fill(on, seed, spread_ms=(2_000, 30_000, 400_000, 1_200_000)[seed % 4])
    chance = random.Random(seed)
    served: list[str] = []
    while len(served) < 125:
        served += await on.texts(most=chance.choice((1, 3, 10, 70)))
    seconds, _ = await on.call("TIME")
    now = int(seconds) * 1000
    past = [one.tag for one in merged(heads, now) if (one.entry or (0, 0))[0] < now - 5_000]
    # What lies in the future counts as "now", which moves while this test runs; the past does not.
    if spread_is_past_only(heads, now):
        assert served == [one.tag for one in merged(heads, now)]
    assert [tag for tag in served if tag in set(past)] == [
        one.tag for one in merged(heads, now) if one.tag in set(past)
    ]


def spread_is_past_only(heads: dict[str, list[Message]], now: int) -> bool:
    return all((one.entry or (0, 0))[0] < now - 5_000 for messages in heads.values() for one in messages)


async def test_a_fetch_from_five_lanes_does_not_slow_down_with_the_backlog(on: InboxBench) -> None:
    async def cost() -> float:
        best = 1.0
        for _ in range(15):
            started = time.perf_counter()
            taken = await on.fetch(most=10)
            best = min(best, time.perf_counter() - started)
            assert len(taken) == 10
        return best

    for lane in PRIORITIES:
        await on.publish(*["x"] * 60, lane=lane)
    shallow = await cost()
    for lane in PRIORITIES:
        for _ in range(20):
            await on.publish(*["x"] * 1000, lane=lane)
    deep = await cost()
    assert deep < shallow * 4, f"{shallow * 1e6:.0f} µs with 300 waiting, {deep * 1e6:.0f} µs with 100,000"


@pytest.mark.parametrize("lanes", [("normal",), ("high", "normal")])
async def test_small_messages_before_large_ones_do_not_make_a_reply_huge(
    on: InboxBench, lanes: tuple[str, ...]
) -> None:
    for lane in lanes:
        await on.publish(*["s"] * 20, lane=lane)
        for _ in range(30):
            await on.publish(*["L" * 100_000] * 10, lane=lane)
    taken = await on.fetch(most=1000, most_bytes=1 << 20)
    # One read of 64 may be misjudged; without a bound it would be 30 MB.
    assert sum(len(entry.message) for entry in taken) < 8_000_000


async def test_thousands_of_expired_messages_end_in_steps_and_are_all_counted(on: InboxBench) -> None:
    for _ in range(10):
        await on.publish(*["old"] * 500, ttl=1)
    await on.publish("new")
    assert await on.texts() == ["new"]
    assert await on.ledger("expired") == 5_000


async def test_an_expired_message_takes_no_other_ones_place_in_a_fetch(on: InboxBench) -> None:
    await on.publish("old", ttl=1)
    await on.publish("new")
    await asyncio.sleep(0.005)
    assert await on.texts(most=1) == ["new"]


async def test_a_deleted_lane_is_made_anew_and_does_not_silence_the_others(on: InboxBench) -> None:
    await on.publish("a", lane="high")
    await on.publish("b", lane="normal")
    await on.call("DEL", on.keys.sources[2])
    with pytest.raises(GroupMissing):
        await on.fetch()
    assert await on.inbox.make_groups()
    assert await on.texts() == ["b"]


async def test_nothing_that_was_read_is_lost_in_an_error(on: InboxBench) -> None:
    await on.publish("a")
    await on.inbox.release("c", ids(await on.fetch()))
    await on.publish("b", lane="low")
    await on.call("XGROUP", "DESTROY", on.keys.sources[4], "inbox")
    assert await on.texts() == ["a"], "what waits in `returned` comes before the error"
    with pytest.raises(GroupMissing):
        await on.fetch()


async def test_a_lane_of_another_type_does_not_keep_the_others_from_being_served(on: InboxBench) -> None:
    await on.publish("b")
    await on.call("DEL", on.keys.sources[2])
    await on.call("SET", on.keys.sources[2], "a string")
    await on.call("ZADD", on.keys.lanes, 0, "high")
    assert await on.texts() == ["b"]
    await on.call("ZADD", on.keys.lanes, 0, "high")
    with pytest.raises(WrongKeyType):
        await on.fetch()


async def test_an_index_of_another_type_is_only_an_index(on: InboxBench) -> None:
    await on.publish("b", lane="low")
    await on.publish("a", lane="high")
    await on.call("SET", on.keys.lanes, "a string")
    assert await on.texts() == ["a", "b"]


def test_the_script_numbers_streams_as_the_catalogue_does() -> None:
    assert SOURCES == ("returned", "critical", "high", "normal", "low", "background")
