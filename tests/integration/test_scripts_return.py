"""Settling, handing back and taking over: large numbers, odd entries, streams that refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus.broker.answers import RawEntry
from agentbus.errors import BrokerError
from agentbus.testing import BrokerForTests
from tests.inboxes import InboxBench, bench, ids

LAST_ID = "18446744073709551615-18446744073709551615"


@pytest.fixture
async def on(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[InboxBench]:
    async with bench(broker.url, f"agent.{unique('return')}") as opened:
        yield opened


async def held(on: InboxBench, count: int) -> list[RawEntry]:
    for start in range(0, count, 1000):
        await on.publish(*["x"] * min(1000, count - start))
    taken: list[RawEntry] = []
    while len(taken) < count:
        taken += await on.fetch(most=1000)
    return taken


async def take_over(on: InboxBench, consumer: str = "c") -> int:
    """Run a takeover to its end; returns the number of steps."""
    beat = (await on.inbox.beats())[consumer]
    step = await on.inbox.reclaim(consumer, beat)
    steps = 1
    async with asyncio.timeout(30):
        while step is not None and step.more:
            step = await on.inbox.reclaim(consumer, "")
            steps += 1
    return steps


async def test_ten_thousand_deliveries_are_settled_in_one_call(on: InboxBench) -> None:
    taken = await held(on, 10_000)
    assert await on.inbox.settle("c", "processed", ids(taken)) == 10_000
    assert await on.inbox.settle("c", "processed", ids(taken)) == 0
    assert await on.ledger("processed") == 10_000


async def test_ten_thousand_deliveries_are_handed_back_in_one_call(on: InboxBench) -> None:
    taken = await held(on, 10_000)
    assert await on.inbox.release("c", ids(taken)) == 10_000
    assert await on.ledger("released") == await on.ledger("added:returned") == 10_000
    assert await on.call("XLEN", on.keys.outcomes) == 1


async def test_ten_thousand_deliveries_of_a_dead_owner_are_taken_in_steps(on: InboxBench) -> None:
    await held(on, 10_000)
    assert await take_over(on) >= 50
    assert await on.ledger("reclaimed") == await on.ledger("added:returned") == 10_000
    assert await on.call("XLEN", on.keys.sources[0]) == 10_000
    assert await on.inbox.holdings() == []


async def test_a_takeover_of_large_messages_is_cut_into_steps_by_bytes(on: InboxBench) -> None:
    for _ in range(9):
        await on.publish("x" * 1_000_000)
    while len(await on.inbox.held_ids("c")) < 9:
        await on.fetch()
    assert await take_over(on) > 1
    assert await on.ledger("reclaimed") == 9


async def test_a_settlement_counts_what_went_through_when_one_stream_refuses(on: InboxBench) -> None:
    await on.publish("a")
    taken = await on.fetch()
    await on.call("DEL", on.keys.sources[5])
    await on.call("SET", on.keys.sources[5], "a string")
    with pytest.raises(BrokerError):
        await on.inbox.settle("c", "processed", {**ids(taken), 5: [b"1-1"]})
    assert await on.ledger("processed") == 1


async def test_a_release_counts_what_went_through_when_a_lane_was_deleted(on: InboxBench) -> None:
    await on.publish("a")
    taken = await on.fetch()
    await on.call("DEL", on.keys.sources[5])
    assert await on.inbox.release("c", {**ids(taken), 5: [b"1-1"]}) == 1
    assert await on.ledger("released") == 1


async def test_dead_letters_that_take_no_entries_do_not_stop_a_takeover(on: InboxBench) -> None:
    await on.call("XADD", on.keys.sources[3], "*", "message", "poison", "state", '{"crashes":3}')
    await on.inbox.sweep()
    await on.publish("a", "b")
    await on.fetch()
    await on.call("XADD", on.keys.dead, LAST_ID, "message", "the last", "state", "{}")
    await take_over(on)
    assert await on.ledger("reclaimed") == 2
    assert [(one.name, one.pending) for one in await on.inbox.holdings()] == [("c", 1)]


async def test_a_takeover_that_can_move_nothing_ends(on: InboxBench) -> None:
    await held(on, 300)
    await on.call("XADD", on.keys.sources[0], LAST_ID, "message", "the last")
    assert await take_over(on) == 1
    assert (await on.inbox.holdings())[0].pending == 300


async def test_a_stale_owner_that_leaves_does_not_hide_the_suspect_it_had_started(on: InboxBench) -> None:
    state = '{"crashes":1}'
    for number in range(201):
        await on.call("XADD", on.keys.sources[3], "*", "message", f"m{number}", "state", state)
    await on.inbox.sweep()
    taken = await on.fetch()
    await on.inbox.mark_started("c", taken[-1])
    step = await on.inbox.reclaim("c", (await on.inbox.beats())["c"])
    assert step is not None and step.more
    assert await on.inbox.leave("c") == 1
    await on.inbox.reclaim("c", "")
    last = (await on.call("XREVRANGE", on.keys.sources[0], "+", "-", "COUNT", 1))[0]
    assert b'"crashes":2' in last[1][3]


async def test_a_stale_owner_that_has_nothing_left_takes_along_what_was_noted(on: InboxBench) -> None:
    await held(on, 200)
    step = await on.inbox.reclaim("c", (await on.inbox.beats())["c"])
    assert step is not None and step.more and await on.call("EXISTS", on.keys.started) == 1
    assert await on.inbox.leave("c") == 0
    assert await on.call("EXISTS", on.keys.started) == 0


async def test_leaving_tells_how_many_entries_are_still_held(on: InboxBench) -> None:
    await held(on, 7)
    assert await on.inbox.leave("c") == 7


async def test_an_entry_of_three_hundred_fields_becomes_a_dead_letter_that_says_so(on: InboxBench) -> None:
    fields = [text for number in range(300) for text in (f"f{number}", "v")]
    await on.call("XADD", on.keys.sources[3], "*", *fields)
    await on.inbox.sweep()
    await on.inbox.bury("c", (await on.fetch())[0], "malformed", "no message", "", 0)
    letter = (await on.call("XRANGE", on.keys.dead, "-", "+"))[0][1]
    named = dict(zip(letter[::2], letter[1::2], strict=True))
    assert named[b"raw_fields"] == b"300" and named[b"raw:f99"] == b"v"


async def test_large_messages_leave_the_history_although_they_are_few(on: InboxBench) -> None:
    for _ in range(20):
        await on.publish("x" * 200_000)
    while await on.ledger("processed") != 20:
        await on.inbox.settle("c", "processed", ids(await on.fetch()))
    await on.inbox.trim(10_000, 3_600_000, 1_000_000)
    assert await on.call("XLEN", on.keys.sources[3]) <= 6


async def test_a_deep_backlog_does_not_cost_the_history_its_place(on: InboxBench) -> None:
    taken = await held(on, 400)
    await on.inbox.settle("c", "processed", ids(taken))
    for _ in range(20):
        await on.publish(*["y"] * 1000)
    before = await on.call("XLEN", on.keys.sources[3])
    await on.inbox.trim(10_000, 3_600_000, 200_000)
    assert await on.call("XLEN", on.keys.sources[3]) == before


async def test_records_of_messages_that_only_move_do_not_grow_for_ever(on: InboxBench) -> None:
    """Each deferral writes one; with nothing in the lanes there is no oldest entry to measure them by."""
    record = ("XADD", on.keys.outcomes, "*", "consumer", "c", "outcome", "deferred", "normal", "1-1")
    for _ in range(4):
        await on.broker.pipeline([record] * 1000)
    for _ in range(3):
        await on.inbox.trim(10, 3_600_000, 1 << 20)
    assert await on.call("XLEN", on.keys.outcomes) <= 1_300


async def test_records_stay_while_a_stream_that_cannot_be_trimmed_needs_them(on: InboxBench) -> None:
    await on.publish("old", lane="low")
    await on.inbox.settle("c", "processed", ids(await on.fetch()))
    await on.publish("w1", "w2", lane="low")
    middle = (await on.call("XREVRANGE", on.keys.sources[4], "+", "-", "COUNT", 1))[0][0]
    await on.call("XDEL", on.keys.sources[4], middle)
    await asyncio.sleep(0.01)
    for _ in range(3):
        await on.publish(*["x"] * 150)
        await on.inbox.settle("c", "processed", ids(await fetch_normal(on)))
    await on.inbox.trim(0, 3_600_000, 1 << 30)
    first = (await on.call("XRANGE", on.keys.outcomes, "-", "+", "COUNT", 1))[0][1]
    assert b"low" in first


async def fetch_normal(on: InboxBench) -> list[RawEntry]:
    taken = await on.call(
        "XREADGROUP", "GROUP", "inbox", "c", "COUNT", 1000, "STREAMS", on.keys.sources[3], ">"
    )
    return [RawEntry(3, entry[0], b"", b"") for entry in taken[0][1]]


async def test_an_entry_taken_by_hand_is_put_back_unless_it_waits_again(on: InboxBench) -> None:
    (entry,) = await held(on, 1)
    lane, entry_id = on.keys.sources[entry.source], entry.entry_id
    await on.call("XACK", lane, "inbox", entry_id)
    assert await on.inbox.restore("c", entry.source, entry_id)
    # A server that came back with older data: the group stands before the entry once more.
    await on.call("XACK", lane, "inbox", entry_id)
    await on.call("XGROUP", "SETID", lane, "inbox", "0")
    assert not await on.inbox.restore("c", entry.source, entry_id)
    assert await on.call("XPENDING", lane, "inbox") == [0, None, None, None]
    assert await on.inbox.sweep()
    assert [again.entry_id for again in await on.fetch()] == [entry_id]
