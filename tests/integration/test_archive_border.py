"""Retention waits for the archive: what it may remove, and what takes room until it is archived."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from agentbus.broker.archiving import LARGEST, START, ArchivedInbox, ArchiveSwitch
from agentbus.testing import BrokerForTests
from tests.inboxes import InboxBench, bench, ids

Unique = Callable[[str], str]
#: Whole nodes of a stream go, a hundred entries each.
NODES = 200


@pytest.fixture
async def on(broker: BrokerForTests, unique: Unique) -> AsyncIterator[InboxBench]:
    async with bench(broker.url, f"agent.{unique('kept')}") as found:
        yield found


@pytest.fixture
def archived(on: InboxBench) -> ArchivedInbox:
    return ArchivedInbox(on.broker, "scripts", on.inbox.address)


async def publish(on: InboxBench, count: int) -> None:
    for start in range(0, count, 500):
        await on.publish(*(f"m{number}" for number in range(start, min(count, start + 500))))


async def end(on: InboxBench, count: int, batch: int = 100) -> None:
    for _ in range(0, count, batch):
        await on.inbox.settle("c", "processed", ids(await on.fetch(most=batch)))


async def trim(on: InboxBench, archived_only: bool = True) -> int:
    removed, more = 0, True
    while more:
        gone, more = await on.inbox.trim(0, 0, 1, archived_only)
        removed += gone
    return removed


async def length(on: InboxBench, key: str | None = None) -> int:
    return int(await on.call("XLEN", key or on.keys.sources[3]))


async def commit(archived: ArchivedInbox, most: int = 10_000) -> None:
    """Do as the archive does, without a database."""
    start = (await archived.position()).to
    page = await archived.records(start, most)
    assert await archived.advance(start, page.to, sum(record.count for record in page.records))


async def test_nothing_goes_before_the_archive_has_it(on: InboxBench, archived: ArchivedInbox) -> None:
    await publish(on, 2000)
    await end(on, 1500)
    assert await trim(on) == 0
    assert await length(on) == 2000
    assert await length(on, on.keys.outcomes) == 15
    await commit(archived)
    assert await trim(on) > 1000
    assert 500 <= await length(on) <= 500 + NODES


async def test_without_an_archive_history_goes_by_itself(on: InboxBench) -> None:
    await publish(on, 1000)
    await end(on, 1000)
    assert await trim(on, archived_only=False) > 700


async def test_an_old_entry_that_ended_late_stays_until_its_record_is_committed(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    await publish(on, 2000)
    (held,) = await on.fetch(most=1)
    await end(on, 1999)
    await commit(archived)
    # Ends after the archive was last here: its id is the oldest of all, its record the newest.
    await on.inbox.settle("c", "processed", ids([held]))
    for _ in range(30):
        await trim(on)
    assert await on.inbox.read_entry(held.source, held.entry_id) is not None
    assert await length(on) <= 1 + 2 * NODES, "the ended ones behind it go"
    await commit(archived)
    await trim(on)
    assert await on.inbox.read_entry(held.source, held.entry_id) is None


async def test_an_archive_that_is_always_behind_still_lets_history_go(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    for _ in range(20):
        await publish(on, 500)
        await end(on, 500, batch=50)
        await commit(archived, most=9)
        await trim(on)
    position = (await archived.position()).to
    (first,) = await on.call("XRANGE", on.keys.sources[3], "-", "+", "COUNT", 1)
    assert 0 < await length(on) < 20 * 500
    page = await archived.records(position, 1)
    entries = [entry for _, entry in page.records[0].entries]
    assert first[0].decode() <= min(entries, key=lambda entry: [int(part) for part in entry.split("-")])


async def test_a_border_holds_only_when_the_archive_has_come_to_its_mark(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    await publish(on, 2000)
    await end(on, 2000, batch=50)
    # Each step is far from the end of the records, where the border was taken.
    for _ in range(3):
        await commit(archived, most=5)
        assert await trim(on) == 0
    await commit(archived)
    assert await trim(on) >= 2000 - NODES


async def test_the_count_is_set_right_when_everything_is_archived(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    await archived.count_unarchived(True)
    await publish(on, 10)
    await end(on, 10)
    await on.call("HINCRBY", on.keys.ledger, "archived", -500)
    assert (await archived.backlog()).unarchived == 510
    await commit(archived)
    assert (await archived.backlog()).unarchived == 0


async def test_two_that_advance_at_once_are_counted_once(on: InboxBench, archived: ArchivedInbox) -> None:
    await publish(on, 100)
    await archived.count_unarchived(True)
    await end(on, 100)
    page = await archived.records(START, 100)
    assert (await archived.backlog()).unarchived == 100
    assert await archived.advance(START, page.to, 100)
    assert not await archived.advance(START, page.to, 100)
    assert await on.ledger("archived") == 100
    assert (await archived.backlog()).unarchived == 0


async def test_what_is_not_archived_takes_room_only_where_that_was_asked_for(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    await on.publish("a", "b", limit=4)
    await end(on, 2)
    await archived.count_unarchived(True)
    # What had ended before is forgiven: an address must not be full because an archive was turned on.
    assert all("!" not in result for result in await on.publish("c", "d", "e", limit=4))
    await end(on, 3)
    assert [result[0] != "!" for result in await on.publish("f", "g", limit=4)] == [True, False]
    await archived.count_unarchived(False)
    assert await on.publish("h", limit=4) != ["!full"]
    await archived.count_unarchived(True)
    await end(on, 2)
    assert await on.publish("i", limit=2) == ["!full archive 2"]
    await commit(archived)
    assert await on.publish("j", limit=2) != ["!full"]


async def test_a_record_names_how_many_ended_when_some_had_ended_before(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    await on.publish("a", "b", "c")
    first, *rest = await on.fetch()
    await on.inbox.settle("c", "processed", ids([first]))
    assert await on.inbox.settle("c", "processed", ids([first, *rest])) == 2
    page = await archived.records(START, 10)
    assert [(record.count, len(record.entries)) for record in page.records] == [(1, 1), (2, 3)]


async def test_a_border_written_by_hand_keeps_everything(on: InboxBench, archived: ArchivedInbox) -> None:
    await publish(on, 1000)
    await end(on, 1000)
    await commit(archived)
    for border in ("{", "[]", '{"normal":{"upto":"x","held":[]}}', '{"normal":{"upto":"9-9","held":[7]}}'):
        await on.call("HSET", on.keys.archived, "border", border)
        assert await trim(on) == 0
    assert await length(on) == 1000


async def test_the_switch_is_seen_by_those_who_trim(broker: BrokerForTests, on: InboxBench) -> None:
    switch = ArchiveSwitch(on.broker, "scripts")
    await switch.turn_off()
    assert not await on.inbox.archive_is_on()
    await switch.turn_on()
    since = await switch.since_ms()
    await switch.turn_on()
    assert await on.inbox.archive_is_on()
    assert await switch.since_ms() == since is not None
    await switch.turn_off()
    assert await switch.since_ms() is None


async def test_after_a_record_with_the_largest_id_there_is_nothing_left_to_read(
    on: InboxBench, archived: ArchivedInbox
) -> None:
    outcomes = on.keys.outcomes
    await on.call("XADD", outcomes, LARGEST, "consumer", "hand", "outcome", "processed", "normal", "1-1")
    page = await archived.records(START, 10)
    assert page.to == LARGEST and (await archived.backlog()).any
    await archived.advance(START, LARGEST, 1)
    assert not (await archived.records(LARGEST, 10)).any
    assert not (await archived.backlog()).any
