"""What the consumers of an agent do at a channel, one step at a time: fences, takeovers, gaps, charges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agentbus.broker.carry import Origin
from agentbus.broker.inspection.inbox_view import inspect_inbox
from agentbus.broker.subscription import LOG, Gap, forget_cursor
from agentbus.errors import GroupMissing, StaleDelivery
from agentbus.testing import BrokerForTests
from tests.logs import PREFIX, LogBench, body, log_bench, state

TEXT = '{"message_id": "m", "message_type": "note", "body": {"content": 1}}'


@pytest.fixture
async def on(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[LogBench]:
    async with log_bench(broker.url, f"channel.{unique('design')}", unique("reader")) as opened:
        yield opened


# --- fences ---


async def test_nothing_a_fenced_reader_of_a_channel_says_is_accepted(on: LogBench) -> None:
    await on.write(1, 2)
    await on.place.join("slow")
    entries = await on.fetch("slow", 1)
    await on.die("slow")
    one = {LOG: [entries[0].entry_id]}
    steps: list[Callable[[], Awaitable[Any]]] = [
        lambda: on.fetch("slow"),
        lambda: on.settle("slow", entries[0]),
        lambda: on.place.release("slow", one),
        lambda: on.place.mark_started("slow", entries[0]),
        lambda: on.place.bury("slow", entries[0], "rejected", "", "", 0),
        lambda: on.place.restore("slow", LOG, entries[0].entry_id),
    ]
    for step in steps:
        with pytest.raises(StaleDelivery):
            await step()
    await on.place.join("next")
    assert await on.bodies("next") == [1, 2]
    assert await on.look.count("processed") == 0


async def test_a_beat_that_moved_saves_a_reader_of_a_channel_from_a_late_verdict(on: LogBench) -> None:
    await on.write(1)
    await on.place.join("living")
    entries = await on.fetch("living")
    assert await on.place.reclaim("living", "7 0 serving") is None
    assert await on.settle("living", *entries) == 1


async def test_a_second_consumer_of_an_agent_reads_only_when_the_first_is_gone(on: LogBench) -> None:
    await on.write(1, 2, 3)
    await on.place.join("first")
    await on.place.join("second")
    assert await on.bodies("first", 1) == [1]
    assert await on.fetch("second") == []
    await on.die("first")
    assert await on.bodies("second") == [1, 2, 3]


# --- what the gone had been handed ---


async def test_what_several_that_are_gone_had_been_handed_comes_first_and_in_order(on: LogBench) -> None:
    await on.write(*range(12))
    several = on.subscription(in_order=False)
    for consumer in ("one", "two"):
        await several.join(consumer)
    for _ in range(2):
        for consumer in ("one", "two"):
            await on.fetch(consumer, 2, several)
    await on.place.leave("one")
    await on.die("two")
    await on.place.join("next")
    assert await on.bodies("next", 3) == [0, 1, 2]
    assert await on.bodies("next") == list(range(3, 12))
    assert await on.look.count("handed_out") == 12


async def test_what_one_that_is_gone_held_is_found_behind_much_that_the_living_hold(on: LogBench) -> None:
    several = on.subscription(in_order=False)
    for consumer in ("busy", "gone", "next"):
        await several.join(consumer)
    for _ in range(5):
        await on.broker.pipeline([("XADD", on.keys.log, "*", "message", TEXT)] * 241)
    assert len(await on.fetch("busy", 1200, several)) == 1200
    held = await on.fetch("gone", 2, several)
    await on.die("gone")
    assert len(held) == 2 and (await on.fetch("next", 2, several))[0].entry_id == held[0].entry_id


async def test_what_an_answer_that_was_lost_had_handed_out_comes_first_and_a_late_question_takes_nothing(
    on: LogBench,
) -> None:
    await on.write(*range(6))
    await on.place.join("c")
    assert await on.bodies("c", 2) == [0, 1]
    late = on.place._seen
    assert await on.bodies("c", 2) == [2, 3]
    # The line is cut: what was asked before is executed now, and its answer goes nowhere.
    seen, on.place._seen = on.place._seen, late
    assert await on.bodies("c", 1) == [2]
    on.place._seen = seen
    assert await on.bodies("c", 2) == [4, 5]
    # The answer with 4 and 5 is lost.
    on.place._seen = seen
    await on.write(6)
    assert await on.bodies("c") == [4, 5, 6]
    assert await on.look.count("handed_out") == 7


async def test_what_a_lost_answer_had_handed_out_to_one_of_several_at_a_time_comes_with_the_next(
    on: LogBench,
) -> None:
    # The audit would bring it too, seconds later and one by one.
    several, sibling = (on.subscription(in_order=False) for _ in range(2))
    await several.join("c")
    await sibling.join("other")
    await on.write(*range(8))
    assert await on.bodies("c", 2, several) == [0, 1]
    seen = several._seen
    assert await on.bodies("c", 2, several) == [2, 3]
    assert await on.bodies("other", 2, sibling) == [4, 5]
    several._seen = seen
    assert await on.bodies("c", 3, several) == [2, 3, 6]
    assert await on.bodies("c", 3, several) == [7]


@pytest.mark.parametrize("in_order", [True, False])
async def test_after_something_was_handed_back_what_is_in_work_is_not_handed_out_once_more(
    on: LogBench, in_order: bool
) -> None:
    place = on.subscription(in_order)
    await place.join("c")
    await on.write(1, 2, 3)
    first, *_ = await on.fetch("c", 3, place)
    assert await place.release("c", {LOG: [first.entry_id]}) == 1
    assert await on.bodies("c", 1, place) == [1]
    assert await on.fetch("c", 3, place) == []


# --- gaps ---


async def test_a_gap_is_told_again_with_the_message_behind_it_when_its_reader_dies(on: LogBench) -> None:
    await on.write(1, 2, 3, 4, 5)
    await on.place.join("first")
    (one,) = await on.fetch("first", 1)
    await on.settle("first", one)
    await on.keep(2)
    four, _five = await on.fetch("first")
    gap = {"missed": 2, "after": one.entry_id.decode()}
    assert state(four) == {"gap": gap}
    # A reply that was lost: what the audit finds says the same.
    found = await on.place.read_entry(LOG, four.entry_id)
    assert found is not None and state(found) == {"gap": gap}
    await on.die("first")
    await on.place.join("next")
    again = await on.fetch("next")
    assert [state(entry) for entry in again] == [{"crashes": 1, "gap": gap}, {"crashes": 1}]
    await on.settle("next", *again)
    await on.look.settled(processed=3, missed=2, position=5)
    assert on.told == [Gap(2, one.entry_id.decode())], "as an event once"


@pytest.mark.parametrize("how", ["death", "handed back", "audit"])
async def test_what_is_trimmed_while_it_is_held_and_not_handled_is_a_gap_that_is_counted(
    on: LogBench, how: str
) -> None:
    await on.write(1, 2, 3)
    await on.place.join("first")
    entries = await on.fetch("first", 2)
    await on.keep(1)
    if how == "handed back":
        assert await on.place.release("first", {LOG: [entry.entry_id for entry in entries]}) == 2
    if how == "audit":
        for entry in entries:
            assert await on.place.read_entry(LOG, entry.entry_id) is None
            for _ in range(2):
                await on.place.forget(LOG, entry.entry_id)
    await on.die("first")
    await on.place.join("next")
    (three,) = await on.fetch("next")
    assert (body(three), state(three)) == (3, {"gap": {"missed": 2, "after": ""}})
    await on.settle("next", three)
    await on.look.settled(missed=2, vanished=2, processed=1, position=3)
    assert sum(gap.missed or 0 for gap in on.told) == 2


async def test_what_is_trimmed_while_its_handler_runs_is_handled_and_no_gap(on: LogBench) -> None:
    await on.write(1, 2)
    await on.place.join("first")
    (one,) = await on.fetch("first", 1)
    await on.keep(1)
    await on.place.postpone("first", one, 0, "retried", "", "m1")
    (two,) = await on.fetch("first")
    assert state(two) == {}
    await on.settle("first", two)
    await on.look.settled(moved=1, processed=1, missed=0)
    assert [body(entry) for entry in await promoted(on)] == [1]


async def promoted(on: LogBench) -> list[Any]:
    """Return what was carried into the inbox, as it is handed out there."""
    async with asyncio.timeout(5):
        while not (await on.inbox.inbox.promote(1000)).moved:
            await asyncio.sleep(0.01)
    return await on.inbox.fetch()


@pytest.mark.parametrize("what", ["group", "log"])
async def test_a_cursor_that_somebody_deleted_goes_on_where_it_stood(on: LogBench, what: str) -> None:
    await on.write(1, 2, 3)
    await on.place.join("c")
    await on.settle("c", *await on.fetch("c", 2))
    if what == "group":
        await on.call("XGROUP", "DESTROY", on.keys.log, on.agent)
        # What goes in the meantime is a gap as ever.
        await on.write(4)
        await on.keep(1)
    else:
        await on.call("DEL", on.keys.log)
        # Entry ids are times: the new log must not begin in the millisecond in which the old one ended.
        await asyncio.sleep(0.002)
        await on.write(4)
    with pytest.raises(GroupMissing):
        await on.fetch("c")
    assert await on.place.make_groups() is True
    assert await on.place.make_groups() is False
    (four,) = await on.fetch("c")
    # The third went with the log, and nobody knows how many others did.
    assert (body(four), state(four)["gap"]["missed"]) == (4, 1 if what == "group" else None)
    await on.settle("c", four)
    await on.look.settled(processed=3, position=4 if what == "group" else 1)
    # The position fits the log, so that the next gap is seen.
    await on.write(5, 6)
    await on.keep(1)
    (six,) = await on.fetch("c")
    assert state(six)["gap"]["missed"] == 1


async def test_a_log_that_was_deleted_while_its_reader_was_away_is_a_gap(on: LogBench) -> None:
    await on.write(1, 2, 3)
    await on.place.join("c")
    await on.settle("c", *await on.fetch("c", 2))
    await on.place.leave("c")
    await on.call("DEL", on.keys.log)
    await asyncio.sleep(0.002)
    await on.write(4)
    assert on.told == []
    await on.place.join("d")
    assert [gap.missed for gap in on.told] == [None]
    (four,) = await on.fetch("d")
    assert (body(four), state(four)["gap"]["missed"]) == (4, None)


# --- charges ---


async def test_a_death_at_a_channel_charges_first_timers_and_the_started_suspect_only(on: LogBench) -> None:
    await on.write(1, 2, 3)
    await on.place.join("first")
    entries = await on.fetch("first")
    # The second one kills; that the first had ended nobody hears of.
    await on.die("first")
    await on.place.join("second")
    assert [state(entry) for entry in await on.fetch("second")] == [{"crashes": 1}] * 3
    for entry in entries[:2]:
        await on.place.mark_started("second", entry)
    await on.die("second")
    await on.place.join("third")
    assert [state(entry)["crashes"] for entry in await on.fetch("third")] == [1, 2, 1]


async def test_a_reader_of_a_channel_that_dies_while_it_drains_is_charged_to_nobody(on: LogBench) -> None:
    await on.write(1)
    await on.place.join("first")
    await on.fetch("first")
    await on.call("HSET", on.keys.alive, "first", "9 0 draining 2000")
    await on.die("first")
    await on.place.join("next")
    assert [state(entry) for entry in await on.fetch("next")] == [{}]


# --- retries ---


async def test_a_retry_carried_by_an_owner_that_died_before_it_settled_is_in_the_inbox_once(
    on: LogBench,
) -> None:
    await on.write(1)
    await on.place.join("first")
    (entry,) = await on.fetch("first")
    origin = Origin(on.channel, entry.entry_id.decode(), f"{on.agent}@{await on.look.count('joined')}")
    await on.place._carrier.carry(on.inbox.inbox.address, origin, "m1", entry.message, delay_ms=0)
    await on.die("first")
    await on.place.join("next")
    (again,) = await on.fetch("next")
    await on.place.postpone("next", again, 0, "retried", "", "m1")
    await on.look.settled(moved=1)
    assert [body(each) for each in await promoted(on)] == [1]
    assert (await inspect_inbox(on.broker, PREFIX, on.inbox.inbox.address)).ledger.closes
    assert await on.inbox.ledger("accepted") == 1


async def test_a_retry_of_a_cursor_made_anew_is_carried_anew(on: LogBench) -> None:
    await on.write(1)
    for _ in range(2):
        await on.place.join("c")
        (entry,) = await on.fetch("c")
        await on.place.postpone("c", entry, 0, "retried", "", "m1")
        assert [body(each) for each in await promoted(on)] == [1]
        await on.place.leave("c")
        await forget_cursor(on.broker, PREFIX, on.channel, on.agent)
        await asyncio.sleep(0.002)


async def test_what_is_carried_keeps_its_crashes_and_its_expiry(on: LogBench) -> None:
    await on.write(1, ttl=600)
    await on.place.join("first")
    await on.fetch("first")
    await on.die("first")
    await on.place.join("next")
    (entry,) = await on.fetch("next")
    await on.place.postpone("next", entry, 0, "deferred", "", "m1")
    (carried,) = await promoted(on)
    expires = int(entry.entry_id.partition(b"-")[0]) + 600_000
    assert state(carried) == {"deferrals": 1, "crashes": 1, "expires": expires}
