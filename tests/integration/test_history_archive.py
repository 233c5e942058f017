"""The history across Redis and a real PostgreSQL: the same entries and filters, and an archive in trouble."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from agentbus import Bus, BusSettings, ConfigurationError, HistoryEntry
from agentbus.archive.connection import Database
from agentbus.testing import BrokerForTests
from tests.archiving import Archivist
from tests.past import Past, bodies
from tests.postgres import PrivatePostgres


@pytest_asyncio.fixture
async def past(
    broker: BrokerForTests, postgres_dsn: str, unique: Callable[[str], str]
) -> AsyncIterator[Past]:
    chosen = BusSettings(prefix=unique("archived"), archive=postgres_dsn)
    async with Bus(broker.url, agent="planner", settings=chosen) as bus:
        yield await Past(bus, "reviewer").open()


@pytest_asyncio.fixture
async def archivist(past: Past, postgres_dsn: str) -> AsyncIterator[Archivist]:
    database = Database(postgres_dsn)
    yield await Archivist(past.bus, database).open()
    await database.close()


async def forget(past: Past) -> None:
    """Remove what the archive has, as retention would."""
    border = (await past.call("HGET", past.keys.archived, "outcomes")).decode()
    milliseconds, _, number = border.partition("-")
    await past.call("XTRIM", past.keys.outcomes, "MINID", f"{milliseconds}-{int(number) + 1}")
    for key in past.keys.sources:
        await past.call("XTRIM", key, "MAXLEN", 0)


async def test_an_entry_reads_the_same_from_both_stores(past: Past, archivist: Archivist) -> None:
    await past.end({"text": "ünïcode"}, priority="low", context={"why": "test"})
    await past.publish("again")
    (entry,) = await past.fetch()
    await past.inbox.postpone("c", entry, 0, "retried", "", "m")
    await past.inbox.promote(1000)
    past.held.clear()
    await past.settle(await past.fetch(), "discarded")
    before = await past.all()
    await archivist.records(past.address)
    await forget(past)
    after = await past.all()
    assert [entry.where for entry in after] == ["archive", "archive"]
    assert [replace(entry, where="redis") for entry in after] == before
    assert before[0].attempts == 2
    assert (await past.page()).complete


async def test_filters_find_the_same_in_both_stores(past: Past, archivist: Archivist) -> None:
    await past.end({"text": '100% ÜBER_all \\ "quoted"'}, "plain", kind="task.urgent")
    await past.end(["ÜBER", {"n": 1, "a": [True, None]}], "x\x00y", kind="question")
    await past.end({"zebra": 1e22, "ant": "5 legs, error: \\n"}, [1.5e-7, 100000.0])
    await past.publish("late", correlation_id="thread-1")
    await past.settle(await past.fetch(), "expired")
    filters: list[dict[str, Any]] = [
        {}, {"type": "task.*"}, {"type": "task.urgent"}, {"type": "task"}, {"sender": "planner"},
        {"sender": "nobody"}, {"outcome": "expired"}, {"grep": "über"}, {"grep": "Über_ALL"},
        {"grep": "100%"},
        {"grep": "10_%"}, {"grep": '\\"quoted'}, {"grep": '"n": 1'}, {"grep": "true, null"}, {"grep": "x"},
        {"grep": "planner"}, {"since": "1h"}, {"until": "1h"}, {"grep": "e", "type": "task", "since": "1h"},
        # jsonb sorts keys and writes numbers in full.
        {"grep": '"zebra": 1e+22, "ant"'}, {"grep": "1e+22"}, {"grep": "5 legs, error: "},
        {"grep": "1.5e-07"}, {"grep": "100000.0"}, {"grep": "\\\\n"}, {"grep": "5"},
        {"correlation_id": "thread-1"}, {"correlation_id": "thread-1", "type": "question"},
    ]  # fmt: skip

    async def found() -> list[list[Any]]:
        return [bodies(await past.all(2, **one)) for one in filters]

    before = await found()
    await archivist.records(past.address)
    await forget(past)
    assert await found() == before
    assert [len(one) for one in before[:9]] == [7, 2, 2, 3, 7, 0, 1, 2, 1]
    assert [len(one) for one in before[-9:]] == [1, 1, 1, 1, 1, 1, 2, 1, 0]


async def test_a_channel_is_read_across_both(past: Past, archivist: Archivist) -> None:
    for number in range(3):
        await past.bus.publish("channel.design.note", number)
    await archivist.log("channel.design")
    for number in range(3, 6):
        await past.bus.publish("channel.design.note", number)
    log = f"{past.bus.settings.prefix}:{{channel.design}}:log"
    await past.call("XTRIM", log, "MAXLEN", 3)
    for limit in (1, 2, 10):
        found: list[HistoryEntry] = []
        cursor = None
        while True:
            page = await past.bus.history("channel.design", limit=limit, cursor=cursor)
            assert page.complete
            found += page.entries
            cursor = page.next
            if cursor is None:
                break
        assert bodies(found) == [5, 4, 3, 2, 1, 0], limit
        assert [entry.where for entry in found] == ["redis"] * 3 + ["archive"] * 3
    await past.call("XTRIM", log, "MAXLEN", 1)
    page = await past.bus.history("channel.design")
    assert bodies(page.entries) == [5, 2, 1, 0]
    assert [gap.reason.partition(" that")[0] for gap in page.gaps] == ["2 message(s)"]


async def test_the_archive_has_what_a_redis_that_was_emptied_has_not(
    past: Past, archivist: Archivist
) -> None:
    await past.end("old 1", "old 2")
    await archivist.records(past.address)
    for name in await past.call("KEYS", f"{past.bus.settings.prefix}:*"):
        await past.call("DEL", name)
    for oldest_first in (False, True):
        entries = await past.all(1, oldest_first=oldest_first)
        assert bodies(entries) == (["old 1", "old 2"] if oldest_first else ["old 2", "old 1"])
    await past.open()
    await past.end("new")
    for oldest_first in (False, True):
        entries = await past.all(1, oldest_first=oldest_first)
        assert bodies(entries)[:: -1 if oldest_first else 1] == ["new", "old 2", "old 1"]


async def test_another_deployment_in_the_same_database_is_not_read(
    past: Past, archivist: Archivist, broker: BrokerForTests, postgres_dsn: str, unique: Callable[[str], str]
) -> None:
    await past.end("ours")
    await archivist.records(past.address)
    other = BusSettings(prefix=unique("other"), archive=postgres_dsn)
    async with Bus(broker.url, agent="planner", settings=other) as bus:
        theirs = await Past(bus, "reviewer").open()
        await theirs.end("theirs")
        assert bodies(await theirs.all()) == ["theirs"]


# --- trouble ---


async def test_an_archive_that_is_away_is_named_and_back_at_once(
    broker: BrokerForTests, private_postgres: PrivatePostgres, unique: Callable[[str], str]
) -> None:
    chosen = BusSettings(prefix=unique("away"), archive=private_postgres.dsn)
    async with Bus(broker.url, agent="planner", settings=chosen) as bus:
        past = await Past(bus, "reviewer").open()
        database = Database(private_postgres.dsn)
        archivist = await Archivist(bus, database).open()
        await past.end("trimmed")
        await archivist.records(past.address)
        await database.close()
        await forget(past)
        await past.end("here 1", "here 2")
        private_postgres.kill()
        first = await past.page(2)
        assert bodies(first.entries) == ["here 2", "here 1"] and first.complete, "nobody needed the archive"
        away = await past.page(2, first.next)
        assert away.entries == () and away.next is None
        assert [gap.kind for gap in away.gaps] == ["archive"]
        assert "cannot be reached" in away.gaps[0].reason
        private_postgres.restart()
        back = await past.page(2, first.next)
        assert bodies(back.entries) == ["trimmed"] and back.complete


async def test_what_was_archived_and_dropped_since_is_counted(
    past: Past, archivist: Archivist, postgres_dsn: str
) -> None:
    await past.end(*range(4))
    await archivist.records(past.address)
    await forget(past)

    database = Database(postgres_dsn)

    async def drop(connection: Any) -> None:
        await connection.execute("DELETE FROM messages WHERE envelope #>> '{body,content}' IN ('0', '1')")

    await database.run(drop)
    await database.close()
    pages = await past.pages(2)
    assert bodies([entry for page in pages for entry in page.entries]) == [3, 2]
    (gap,) = pages[-1].gaps
    assert gap.kind == "trimmed" and "2 message(s) that ended before" in gap.reason
    assert gap.reason.endswith("and the archive does not have them")


async def test_without_a_connection_string_a_reader_is_told_where_the_rest_may_be(
    past: Past, archivist: Archivist, broker: BrokerForTests
) -> None:
    await past.end("archived")
    await archivist.records(past.address)
    await forget(past)
    plain = BusSettings(prefix=past.bus.settings.prefix)
    async with Bus(broker.url, settings=plain) as bus:
        page = await bus.history(past.address)
    assert page.entries == () and [gap.kind for gap in page.gaps] == ["trimmed"]
    assert "set AGENTBUS_ARCHIVE" in page.gaps[0].reason


async def test_a_bad_connection_string_is_an_error_of_its_own(past: Past, broker: BrokerForTests) -> None:
    await past.end("x")
    wrong = BusSettings(prefix=past.bus.settings.prefix, archive="postgres//secret")
    async with Bus(broker.url, settings=wrong) as bus:
        with pytest.raises(ConfigurationError, match="connection string"):
            await bus.history(past.address)
