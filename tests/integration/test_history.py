"""The history of an address from Redis: order, filters, pages, and what it says is missing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from agentbus import Agent, Bus, BusSettings, InvalidTopic, InvalidValue, NoSuchAddress
from agentbus.broker.inspection.kept import Kept, Window
from agentbus.broker.inspection.unended import Unended
from agentbus.testing import BrokerForTests
from tests.past import Past, bodies


@pytest_asyncio.fixture
async def past(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Past]:
    settings = BusSettings(prefix=unique("history"))
    async with Bus(broker.url, agent="planner", settings=settings) as bus:
        yield await Past(bus, "reviewer").open()


async def test_the_newest_end_comes_first_and_says_how_it_came(past: Past) -> None:
    (first,) = await past.end({"pr": 1})
    await past.publish({"pr": 2}, priority="low")
    await past.settle(await past.fetch(), "discarded")
    page = await past.page()
    assert page.complete and page.next is None
    newest, oldest = page.entries
    assert bodies(page.entries) == [{"pr": 2}, {"pr": 1}]
    assert (newest.outcome, newest.lane, newest.state, newest.consumer) == ("discarded", "low", "ended", "c")
    assert (oldest.outcome, oldest.attempts, oldest.where) == ("processed", 1, "redis")
    assert oldest.message is not None and oldest.message.message_id == first
    assert oldest.sent_at is not None and abs(oldest.sent_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert oldest.ended_at_ms is not None and oldest.ended_at_ms <= (newest.ended_at_ms or 0)
    assert bodies((await past.page(oldest_first=True)).entries) == [{"pr": 1}, {"pr": 2}]


async def test_what_has_not_ended_stands_before_the_newest_end(past: Past) -> None:
    await past.end("done")
    await past.publish("held")
    await past.fetch()
    await past.publish("waits 1", "waits 2")
    await past.publish("later", delay="1h")
    await past.publish("much later", delay="2h")
    await past.publish("poison", priority="critical")
    (poison,) = await past.fetch(1)
    await past.inbox.bury("c", poison, "rejected", "never", "", 3)
    expected = [
        ("due", "much later"), ("due", "later"), ("waiting", "waits 2"), ("waiting", "waits 1"),
        ("in_flight", "held"), ("dead", "poison"), ("ended", "done"),
    ]  # fmt: skip
    for limit in (1, 2, 3, 100):
        entries = await past.all(limit)
        assert [(one.state, *bodies([one])) for one in entries] == expected, limit
        entries = await past.all(limit, oldest_first=True)
        assert [(one.state, *bodies([one])) for one in entries] == expected[::-1], limit
    (dead,) = await past.all(state="dead")
    assert (dead.detail, dead.attempts, dead.lane, dead.consumer) == ("rejected: never", 1, "critical", "c")
    (held,) = await past.all(state="in_flight")
    assert (held.consumer, held.attempts) == ("c", 1)
    assert bodies(await past.all(state="ended")) == ["done"]


async def test_a_message_that_was_retried_and_handed_back_is_there_once(past: Past) -> None:
    await past.publish("again")
    (entry,) = await past.fetch()
    await past.inbox.postpone("c", entry, 0, "retried", "", "m")
    await past.inbox.promote(1000)
    past.held.clear()
    (entry,) = await past.fetch()
    await past.inbox.release("c", {entry.source: [entry.entry_id]})
    past.held.clear()
    await past.settle(await past.fetch())
    (found,) = await past.all()
    assert (found.outcome, found.attempts, found.lane) == ("processed", 2, "normal")
    assert (await past.page()).complete


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("oldest_first", [False, True])
async def test_each_end_of_a_batch_is_on_one_page(past: Past, limit: int, oldest_first: bool) -> None:
    await past.publish(*range(25))
    taken = await past.fetch()
    await past.settle(taken[:10])
    await past.settle(taken[10:11], "expired")
    await past.settle(taken[11:])
    found = await past.all(limit, oldest_first=oldest_first)
    expected = list(range(25))
    assert bodies(found) == (expected if oldest_first else expected[::-1])


async def test_what_ends_while_one_pages_repeats_and_shifts_nothing(past: Past) -> None:
    await past.end(*range(6))
    first = await past.page(3)
    await past.end("new")
    second = await past.page(10, first.next)
    assert bodies((*first.entries, *second.entries)) == [5, 4, 3, 2, 1, 0]
    first = await past.page(3, oldest_first=True)
    await past.end("newer")
    second = await past.page(10, first.next, oldest_first=True)
    # Oldest first meets it on the way; and the last page comes although ends go on.
    assert bodies((*first.entries, *second.entries)) == [0, 1, 2, 3, 4, 5, "new"]


async def test_what_ends_between_pages_of_what_has_not_is_said_to_be_missing(past: Past) -> None:
    await past.publish("one", "two")
    first = await past.page(1)
    await past.settle(await past.fetch())
    rest = [await past.page(1, first.next)]
    while rest[-1].next is not None:
        rest.append(await past.page(1, rest[-1].next))
    assert bodies(first.entries) == ["two"]
    assert [bodies(page.entries) for page in rest if page.entries] == []
    assert {gap.kind for page in rest for gap in page.gaps} == {"moving"}
    assert bodies(await past.all(1)) == ["two", "one"]


# --- filters ---


async def test_what_ends_while_a_page_is_read_is_on_it_once_with_its_end(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    await past.publish(1, 2)
    read = Unended.read

    async def interrupted(unended: Unended, stage: str, window: Window, most: int) -> list[Kept]:
        found = await read(unended, stage, window, most)
        if stage == "dead":
            await past.settle(await past.fetch())
        return found

    monkeypatch.setattr(Unended, "read", interrupted)
    page = await past.page()
    assert [(bodies([each]), each.outcome) for each in page.entries] == [
        ([2], "processed"),
        ([1], "processed"),
    ]
    assert page.complete


async def test_filters_narrow_it_together(past: Past) -> None:
    await past.end({"text": "Timeout in CI"}, "fine", kind="task.urgent")
    await past.end("a TIMEOUT", kind="question")
    async with Bus(past.bus._url, agent="tester", settings=past.bus.settings) as other:
        await other.publish(f"{past.address}.task", "timeout again")
    await past.settle(await past.fetch(), "expired")
    assert bodies(await past.all(grep="timeout")) == ["timeout again", "a TIMEOUT", {"text": "Timeout in CI"}]
    assert bodies(await past.all(type="task.*")) == ["fine", {"text": "Timeout in CI"}]
    assert bodies(await past.all(type="task")) == ["timeout again"]
    assert bodies(await past.all(sender="tester")) == ["timeout again"]
    assert bodies(await past.all(sender="planner", grep="timeout", type="question")) == ["a TIMEOUT"]
    assert bodies(await past.all(outcome="expired")) == ["timeout again"]
    page = await past.page(grep="not there")
    assert (page.entries, page.next, page.complete) == ((), None, True)


async def test_since_and_until_are_times_of_the_end(past: Past) -> None:
    await past.end("before")
    await past.publish("waits long")
    (held,) = await past.fetch()
    (before,) = await past.all(state="ended")
    while int((await past.call("TIME"))[0]) * 1000 <= before.at_ms:
        pass
    await past.end("after")
    await past.settle([held])
    last, after, _ = await past.all()
    edge = datetime.fromtimestamp(after.at_ms / 1000, UTC)
    assert bodies(await past.all(since=edge)) == ["waits long", "after"]
    assert bodies(await past.all(until=edge)) == ["before"]
    assert bodies(await past.all(since="1h")) == ["waits long", "after", "before"]
    assert bodies(await past.all(since=timedelta(hours=1), until=edge.isoformat())) == ["before"]
    assert (await past.page(until="1h")).entries == ()
    await past.publish("not ended")
    assert "not ended" in bodies(await past.all(since=edge))
    assert "not ended" not in bodies(await past.all(until=datetime.now(UTC) + timedelta(hours=1)))
    assert last.at_ms >= after.at_ms


async def test_so_long_ago_is_counted_by_the_server_whatever_ones_own_clock_says(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    await past.end("just now")
    for wrong in (3600, -3600):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong + datetime.now(UTC).timestamp())
        assert bodies(await past.all(since="1m")) == ["just now"]
        assert (await past.page(until="1m")).entries == ()


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"since": "yesterday"}, "since: must be a time such as .* or how long ago"),
        ({"until": "2026-01-01T00:00:00"}, "until: .* has no time zone"),
        ({"since": "1h", "until": "2h"}, "until: '2h' is not after since"),
        ({"type": "a b"}, "type: 'a b' is not a message type"),
        ({"sender": "No Name"}, "sender: 'No Name' is not a name"),
        ({"state": "gone"}, "state: 'gone' is none of due, waiting"),
        ({"outcome": "lost"}, "outcome: 'lost' is none of processed"),
        ({"corelation_id": "c"}, "corelation_id: is no filter of the history; those are since"),
        ({"type": 5}, "type: must be text, not 5"),
        ({"grep": 5}, "grep: must be text, not 5"),
        ({"outcome": "expired", "state": "dead"}, "outcome: a message that is dead has none"),
        ({"until": "1h", "state": "waiting"}, "until: a message that is waiting has not ended"),
        ({"limit": 0}, "limit: must be a whole number from 1 to 10,000, not 0"),
        ({"limit": True}, "limit: must be a whole number"),
        ({"cursor": "x"}, "cursor: 'x' is none"),
        ({"cursor": "bm90IGpzb24"}, "cursor: .* is none"),
    ],
)
async def test_a_filter_that_cannot_be_is_named(past: Past, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        await past.page(**filters)


async def test_a_cursor_of_another_query_is_refused(past: Past) -> None:
    await past.end(1, 2)
    page = await past.page(1)
    for filters in ({"type": "task"}, {"oldest_first": True}):
        with pytest.raises(InvalidValue, match="cursor: belongs to another query"):
            await past.page(1, page.next, **filters)
    with pytest.raises(InvalidValue, match="cursor: belongs to another query"):
        await past.bus.history("agent.other", cursor=page.next)


async def test_an_address_that_nobody_knows_is_an_error_that_names_close_ones(past: Past) -> None:
    await past.end("x")
    with pytest.raises(NoSuchAddress, match=r"agent\.reviwer.*did you mean agent\.reviewer\?"):
        await past.bus.history("reviwer")
    with pytest.raises(InvalidTopic):
        await past.bus.history("nonsense.reviewer")


async def test_an_address_that_was_served_and_got_nothing_is_really_empty(past: Past) -> None:
    async with past.bus.serving(Agent("idle")):
        page = await past.bus.history("idle")
    assert (page.entries, page.complete, page.next) == ((), True, None)


# --- what is missing ---


async def test_records_that_were_trimmed_are_counted(past: Past) -> None:
    await past.end(*range(10))
    records = await past.call("XRANGE", past.keys.outcomes, "-", "+")
    await past.call("XTRIM", past.keys.outcomes, "MINID", records[4][0])
    (page,) = await past.pages()
    assert bodies(page.entries) == [9, 8, 7, 6, 5, 4]
    (gap,) = page.gaps
    assert not page.complete and gap.kind == "trimmed"
    assert gap.reason.startswith("4 message(s) that ended before 20") and "were removed" in gap.reason
    pages = await past.pages(2, oldest_first=True)
    assert [page.complete for page in pages] == [False, *[True] * (len(pages) - 1)]
    # What is missing is older than what is asked for.
    edge = datetime.fromtimestamp(int(records[5][0].split(b"-")[0]) / 1000, UTC)
    if records[4][0].split(b"-")[0] != records[5][0].split(b"-")[0]:
        assert (await past.page(since=edge)).complete
    assert (await past.page(3)).complete


async def test_trimmed_records_of_moves_are_no_loss(past: Past) -> None:
    await past.publish("again")
    for _ in range(3):
        (entry,) = await past.fetch()
        await past.inbox.release("c", {entry.source: [entry.entry_id]})
        past.held.clear()
    await past.settle(await past.fetch())
    await past.call("XTRIM", past.keys.outcomes, "MAXLEN", 1)
    page = await past.page()
    assert bodies(page.entries) == ["again"] and page.complete


async def test_a_message_whose_content_was_trimmed_is_known_by_its_end(past: Past) -> None:
    await past.end("first", "second")
    oldest = (await past.all())[-1]
    await past.call("XDEL", past.keys.sources[3], oldest.entry_id)
    page = await past.page()
    assert bodies(page.entries) == ["second", None]
    assert (page.entries[1].outcome, page.entries[1].detail) == ("processed", "its content was removed")
    assert [gap.kind for gap in page.gaps] == ["content"]
    page = await past.page(grep="s")
    assert bodies(page.entries) == ["second"] and not page.complete


async def test_a_repeated_settlement_that_lists_more_adds_no_second_end(past: Past) -> None:
    await past.publish("a", "b")
    first, second = await past.fetch()
    await past.inbox.settle("c", "processed", {first.source: [first.entry_id]})
    await past.inbox.settle("c", "processed", {first.source: [first.entry_id, second.entry_id]})
    record = (await past.call("XREVRANGE", past.keys.outcomes, "+", "-", "COUNT", 1))[0]
    if b"count" not in record[1]:
        await past.call("XADD", past.keys.outcomes, "*", *record[1], "count", 1)
        await past.call("XDEL", past.keys.outcomes, record[0])
    assert bodies(await past.all(1)) == ["b", "a"]
    assert (await past.page()).complete


async def test_a_page_ends_early_when_little_matches_and_says_so(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.history.pages._SCANNED", 10)
    monkeypatch.setattr("agentbus.history.pages._CHUNK", 5)
    await past.end("needle", *["hay"] * 30)
    first = await past.page(grep="needle")
    assert first.entries == () and first.next is not None and [gap.kind for gap in first.gaps] == ["scan"]
    assert bodies(await past.all(grep="needle")) == ["needle"]


async def test_looking_takes_and_writes_nothing(past: Past) -> None:
    await past.end(1, 2)
    await past.publish(3, delay="1h")
    await past.publish(4)

    async def everything() -> dict[bytes, Any]:
        names = sorted(await past.call("KEYS", f"{past.bus.settings.prefix}:*"))
        return {name: await past.call("DUMP", name) for name in names}

    before = await everything()
    await past.pages(1)
    await past.pages(1, oldest_first=True)
    assert await everything() == before


# --- channels ---


async def test_a_channel_is_a_log(past: Past) -> None:
    for number in range(5):
        await past.bus.publish("channel.design.note", number)
    page = await past.bus.history("channel.design", limit=3)
    assert bodies(page.entries) == [4, 3, 2] and page.complete
    assert {(one.state, one.lane, one.outcome) for one in page.entries} == {("logged", "log", "")}
    page = await past.bus.history("channel.design", limit=3, cursor=page.next)
    assert bodies(page.entries) == [1, 0] and page.complete and page.next is None
    log = f"{past.bus.settings.prefix}:{{channel.design}}:log"
    await past.call("XTRIM", log, "MAXLEN", 2)
    page = await past.bus.history("channel.design", oldest_first=True)
    assert bodies(page.entries) == [3, 4]
    assert [gap.reason.split(" were")[0] for gap in page.gaps] == ["3 message(s) that"]


@pytest.mark.parametrize("address", ["channel.design", "project.demo"])
async def test_a_channel_is_read_in_pages_with_filters_and_its_cursor_is_no_others(
    past: Past, address: str
) -> None:
    for number in range(5):
        await past.bus.publish(f"{address}.note", number, correlation_id=f"thread-{number % 2}")

    async def found(**asked: Any) -> list[Any]:
        return bodies((await past.bus.history(address, **asked)).entries)

    assert await found() == [4, 3, 2, 1, 0]
    assert await found(correlation_id="thread-1", oldest_first=True) == [1, 3]
    assert await found(correlation_id="thread-1", type="other") == []
    first = await past.bus.history(address, limit=2)
    assert await found(cursor=first.next) == [2, 1, 0]
    await past.bus.publish("channel.other.note", 1)
    with pytest.raises(InvalidValue, match="cursor: belongs to another query"):
        await past.bus.history("channel.other", cursor=first.next)
    with pytest.raises(InvalidValue, match="correlation_id: "):
        await past.bus.history(address, correlation_id="")
    with pytest.raises(InvalidTopic, match="has a wildcard; give one address"):
        await past.bus.history("channel.*")
    await past.call("XTRIM", f"{past.bus.settings.prefix}:{{{address}}}:log", "MAXLEN", 0)
    page = await past.bus.history(address)
    assert not page.entries and [gap.kind for gap in page.gaps] == ["trimmed"]
    assert (await past.bus.history("channel.other", type="none")).complete
