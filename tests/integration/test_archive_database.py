"""The archive's own side, on a real PostgreSQL: tables, rows, pages, and a server in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from agentbus.archive.connection import Database
from agentbus.archive.migrations import Migration, check_version, migrate, migrations
from agentbus.archive.reader import ArchivedMessage, ArchiveQuery, ArchiveReader
from agentbus.archive.writer import ArchiveWriter
from agentbus.broker.archiving import Ended
from agentbus.broker.inspection.kept import Window
from agentbus.errors import ArchiveError, ArchiveTimeout, ArchiveUnavailable, ConfigurationError
from tests.postgres import PrivatePostgres

Unique = Callable[[str], str]
BEGIN_MS = 1_763_680_000_000
OLDEST_FIRST = Window(None, None, newest_first=False)


def ended(number: int, text: bytes | None = None, **changes: Any) -> Ended:
    """Return a message that ended ``number`` seconds after the beginning."""
    body = b'{"message_id":"m%d","message_type":"task","from_agent":"planner"}' % number
    at = BEGIN_MS + number * 1000
    message = Ended(
        "agent.x", "normal", f"{at}-{number}", at + 500, "processed", "c1", body if text is None else text
    )
    return replace(message, **changes)


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    opened = Database(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
async def writer(database: Database) -> ArchiveWriter:
    await migrate(database)
    return ArchiveWriter(database, "p")


async def ask(database: Database, sql: str) -> list[Any]:
    async def work(connection: Any) -> list[Any]:
        rows = await connection.execute(sql)
        return list(await rows.fetchall()) if rows.description else []

    return await database.run(work)


def entry_ms(message: ArchivedMessage) -> int:
    return int(message.entry_id.partition("-")[0])


async def everything(
    database: Database, query: ArchiveQuery | None = None, by: int = 3
) -> list[ArchivedMessage]:
    reader, found = ArchiveReader(database, "p"), []
    asked = query or ArchiveQuery("agent.x")
    while page := await reader.page(asked, by):
        found += page
        asked = replace(asked, window=asked.window.after(page[-1].point))
    return found


# --- tables ---


async def test_tables_are_made_once_however_many_try(postgres_dsn: str) -> None:
    databases = [Database(postgres_dsn) for _ in range(4)]
    applied = await asyncio.gather(*(migrate(each) for each in databases))
    assert sorted(applied, key=len) == [[], [], [], [each.name for each in migrations()]]
    for each in databases:
        await each.close()


async def test_a_file_that_changed_after_it_was_applied_is_named(database: Database) -> None:
    await migrate(database)
    first, *rest = migrations()
    with pytest.raises(ConfigurationError, match=r"0001_messages\.sql"):
        await migrate(database, [Migration(1, first.name, first.sql + " "), *rest])


async def test_a_migration_that_fails_leaves_nothing_behind(database: Database) -> None:
    wrong = Migration(len(migrations()) + 1, "9999_wrong.sql", "CREATE TABLE half (); CREATE TABLE half ();")
    with pytest.raises(ArchiveError):
        await migrate(database, [*migrations(), wrong])
    assert await ask(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'agentbus'") == [(0,)]
    assert await migrate(database) == [each.name for each in migrations()]


async def test_reading_before_there_are_tables_says_who_makes_them(database: Database) -> None:
    with pytest.raises(ArchiveError, match="worker `archive`"):
        await ArchiveReader(database, "p").page(ArchiveQuery("agent.x"), 1)


@pytest.mark.parametrize(
    ("dsn", "why"),
    [
        ("postgres//secret", "cannot be read"),
        ("host=x password=secret colour=red", "no option 'colour'"),
        ("", "empty"),
    ],
)
def test_a_bad_connection_string_is_refused_without_its_password(dsn: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        Database(dsn)
    assert "secret" not in str(caught.value)


# --- rows ---


async def test_rows_come_back_as_they_went_in_page_by_page(database: Database, writer: ArchiveWriter) -> None:
    messages = [ended(number) for number in range(10)]
    assert (await writer.write(messages)).added == 10
    found = await everything(database)
    assert [each.message for each in found] == [each.message for each in reversed(messages)]
    assert [each.entry_id for each in found] == [each.entry_id for each in reversed(messages)]
    assert {each.ended_ms - entry_ms(each) for each in found} == {500}
    assert await everything(database, ArchiveQuery("agent.x", OLDEST_FIRST)) == found[::-1]


async def test_writing_again_adds_nothing(database: Database, writer: ArchiveWriter) -> None:
    messages = [ended(number) for number in range(5)]
    await writer.write(messages[:3])
    again = await writer.write(messages)
    assert (again.added, again.refused) == (2, [])
    assert (await writer.write(messages)).added == 0
    # The record of a settlement that lists more than it ended, written at another time.
    later = [replace(each, ended_ms=each.ended_ms + 9_000) for each in (*messages, ended(6))]
    assert (await writer.write(later)).added == 1
    assert len(await everything(database)) == 6


async def test_filters_restrict(database: Database, writer: ArchiveWriter) -> None:
    other = (
        b'{"message_id":"n","message_type":"note","from_agent":"critic","body":{"content":"look: \xc3\xbc"}}'
    )
    await writer.write([ended(1), ended(2), ended(3, other), ended(4, address="agent.y")])

    async def numbers(**asked: Any) -> list[int]:
        found = await everything(database, ArchiveQuery("agent.x", **asked))
        return [(entry_ms(each) - BEGIN_MS) // 1000 for each in found]

    assert await numbers() == [3, 2, 1]
    assert await numbers(message_type="note") == [3]
    assert await numbers(sender="planner") == [2, 1]
    assert await numbers(contains="look: ü") == [3]
    assert await numbers(window=Window((BEGIN_MS + 2000, 0, 0), None, True)) == [3, 2]
    assert await numbers(window=Window(None, (BEGIN_MS + 2000, 0, 0), True)) == [1]
    assert await numbers(message_type="no.*") == [] and await numbers(outcome="expired") == []


async def parts(reader: ArchiveReader, query: ArchiveQuery, by: int) -> list[list[int]]:
    """Return the numbers of all that match, part by part."""
    found = []
    while True:
        part = await reader.part(query, by)
        found.append([(entry_ms(each) - BEGIN_MS) // 1000 for each in part.messages])
        if part.resume is None:
            return found
        query = replace(query, window=query.window.after(part.resume))


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_filter_that_few_match_looks_through_so_many_rows_at_a_time(
    database: Database, writer: ArchiveWriter, newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.archive.reader._MOST_ROWS", 10)
    await writer.write([ended(number, outcome="expired" if number in (7, 8, 33) else "processed")
                        for number in range(40)])  # fmt: skip
    query = ArchiveQuery("agent.x", Window(None, None, newest_first), outcome="expired")
    # A part ends where so many rows end, or with as many as were asked for.
    expected = [[33], [], [], [8], [7], []] if newest_first else [[7], [8], [], [33], []]
    found = await parts(ArchiveReader(database, "p"), query, 1)
    assert [number for part in found for number in part] == [number for part in expected for number in part]
    assert len(found) > 4
    unfiltered = await parts(ArchiveReader(database, "p"), replace(query, outcome=None), 15)
    assert [len(part) for part in unfiltered] == [15, 15, 10]


async def test_rows_that_take_long_to_look_through_are_looked_through_few_at_a_time(
    database: Database, writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await writer.write([ended(number) for number in range(100)])
    columns = await ask(
        database,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'agentbus.messages'::regclass AND attnum > 0",
    )
    names = ", ".join(name for (name,) in columns if name != "envelope")
    await ask(database, "ALTER TABLE messages RENAME TO stored")
    slow = "CASE WHEN pg_sleep(0.002)::text IS NOT NULL THEN envelope END AS envelope"
    await ask(database, f"CREATE VIEW messages AS SELECT {names}, {slow} FROM stored")
    monkeypatch.setattr("agentbus.archive.reader._FILTER_SECONDS", 0.15)
    found = await parts(ArchiveReader(database, "p"), ArchiveQuery("agent.x", contains="nothing"), 10)
    assert len(found) >= 3 and not any(found)
    monkeypatch.setattr("agentbus.archive.reader._FILTER_SECONDS", 0.005)
    with pytest.raises(ArchiveTimeout):
        await parts(ArchiveReader(database, "p"), ArchiveQuery("agent.x", contains="nothing"), 10)


def test_an_old_server_is_refused_with_the_version_it_takes() -> None:
    check_version(120_000)
    with pytest.raises(ConfigurationError, match="12 or newer, and this is 11"):
        check_version(110_022)


async def test_a_user_without_the_right_to_create_is_told_what_is_needed(
    postgres_dsn: str, database: Database, unique: Unique
) -> None:
    role = unique("weak").replace("-", "_")
    await ask(database, f'CREATE ROLE "{role}" LOGIN')
    weak = Database(psycopg.conninfo.make_conninfo(postgres_dsn, user=role))
    try:
        with pytest.raises(ArchiveError, match="needs the right to create in the database"):
            await migrate(weak)
    finally:
        await weak.close()
        await ask(database, f'DROP ROLE "{role}"')


@pytest.mark.parametrize(
    "text",
    [
        b'{"message_id":"a","message_type":"t","body":{"content":"nul \\u0000 here"}}',
        b'{"message_id":"a\\u0000b","message_type":"t"}',
        b'{"message_id":"a","message_type":"t","body":{"content":"half \\ud800"}}',
        b'{"message_id":"a","message_type":"t","body":{"content":1e200000}}',
        b'{"message_id":"a","message_type":"t","timestamp":"yesterday"}',
        b'{"message_id":"a","message_type":"t","timestamp":"0001-01-01T00:00:00+14:00"}',
        b'{"message_id":'
        + b'"'
        + b"i" * 100_000
        + b'","message_type":"'
        + b"\xf0\x9f\x98\x80" * 5000
        + b'"}',
        b'{"message_id":"a","message_type":"t","body":{"content":0.' + b"0" * 20_000 + b"1}}",
        b'{"deep":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"\xff\xfe no text",
        b"",
        b"[1]",
    ],
    ids=range(12),
)
async def test_whatever_was_sent_is_kept_byte_by_byte(
    database: Database, writer: ArchiveWriter, text: bytes
) -> None:
    messages = [ended(1), ended(2, text), ended(3)]
    written = await writer.write(messages)
    assert (written.added, written.refused) == (3, [])
    found = await everything(database, ArchiveQuery("agent.x", OLDEST_FIRST))
    assert [each.message for each in found] == [each.message for each in messages]


@pytest.mark.parametrize("at", [0, BEGIN_MS, 253_402_300_799_000, 2**64 - 1])
async def test_any_time_of_an_end_finds_a_partition(
    database: Database, writer: ArchiveWriter, at: int
) -> None:
    await writer.write([ended(1, ended_ms=at, entry_id=f"{at}-{2**64 - 1}")])
    (found,) = await everything(database)
    assert entry_ms(found) == at


async def test_a_row_that_is_refused_is_set_aside_and_the_others_go_on(
    database: Database, writer: ArchiveWriter
) -> None:
    await ask(database, "ALTER TABLE messages ADD CHECK (message_id <> 'm5')")
    written = await writer.write([ended(number) for number in range(20)])
    assert written.added == 19
    ((message, reason),) = written.refused
    assert message == ended(5)
    assert "violates check constraint" in reason
    assert await ask(database, "SELECT entry_id, raw FROM refused") == [(message.entry_id, message.message)]


async def test_what_the_broker_knew_of_a_dead_letter_is_kept(
    database: Database, writer: ArchiveWriter
) -> None:
    letter = ended(
        1,
        outcome="resolved",
        stream="resolved",
        state=b'{"attempt":3,"first_failure":{"error":"boom"}}',
        details=((b"reason", b"exhausted"), (b"attempts", b"4"), (b"resolution", b"by hand\x00\xff")),
    )
    await writer.write([letter])
    (found,) = await everything(database)
    assert found.attempts == 4
    assert found.state["first_failure"] == {"error": "boom"}
    assert found.details["reason"] == "exhausted"
    assert found.details["resolution"] == "by hand�\\xff"


# --- partitions ---


async def partitions(database: Database) -> list[str]:
    rows = await ask(
        database, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass"
    )
    return sorted(name for (name,) in rows)


async def test_partitions_are_made_ahead_and_dropped_when_all_in_them_is_too_old(
    database: Database, writer: ArchiveWriter
) -> None:
    await writer.prepare()
    assert len(await partitions(database)) == 3
    now = datetime.now(UTC)
    old = int((now - timedelta(days=100)).timestamp() * 1000)
    await writer.write(
        [ended(1, ended_ms=old, entry_id=f"{old}-0"), ended(2, ended_ms=int(now.timestamp() * 1000))]
    )
    assert len(await partitions(database)) == 4
    assert await writer.drop_older_than(timedelta(days=200)) == []
    (dropped,) = await writer.drop_older_than(timedelta(days=60))
    assert dropped not in await partitions(database)
    assert [each.entry_id.partition("-")[2] for each in await everything(database)] == ["2"]
    # What comes late finds its partition again.
    assert (await writer.write([ended(3, ended_ms=old)])).added == 1


async def test_a_partition_that_somebody_dropped_is_made_anew(
    database: Database, writer: ArchiveWriter
) -> None:
    await writer.write([ended(1)])
    (name,) = [each for each in await partitions(database) if each.endswith("2025_11")]
    await ask(database, f"DROP TABLE {name}")
    assert (await writer.write([ended(1), ended(2)])).added == 2


# --- a server in trouble ---


async def soon_unavailable(work: Awaitable[Any], within: float) -> None:
    async with asyncio.timeout(within):
        with pytest.raises(ArchiveUnavailable):
            await work


async def test_a_server_that_is_down_or_frozen_is_unavailable_and_comes_back(
    private_postgres: PrivatePostgres,
) -> None:
    database = Database(private_postgres.dsn, statement_seconds=0.5)
    await migrate(database)
    writer = ArchiveWriter(database, "p")
    await writer.write([ended(1)])
    private_postgres.freeze()
    # An open connection, then a new one: neither is answered.
    await soon_unavailable(writer.write([ended(2)]), 9)
    stopped = asyncio.create_task(writer.write([ended(2)]))
    await asyncio.sleep(0.1)
    stopped.cancel()
    async with asyncio.timeout(8):
        await asyncio.gather(stopped, return_exceptions=True)
    private_postgres.thaw()
    await writer.write([ended(3)])
    private_postgres.kill()
    await soon_unavailable(writer.write([ended(4)]), 10)
    private_postgres.restart()
    assert (await writer.write([ended(number) for number in range(1, 5)])).added <= 3
    assert len(await everything(database)) == 4
    await database.close()


async def test_a_statement_that_takes_too_long_is_unavailable(postgres_dsn: str) -> None:
    database = Database(postgres_dsn, statement_seconds=0.2)
    await soon_unavailable(ask(database, "SELECT pg_sleep(30)"), 10)
    assert await ask(database, "SELECT 1") == [(1,)]
    await database.close()


async def trigger(database: Database, body: str) -> None:
    """Let PostgreSQL do something with every new row."""
    await ask(database, "CREATE FUNCTION each_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                        f"{body}; RETURN NEW; END $$")  # fmt: skip
    await ask(
        database,
        "CREATE TRIGGER each_row BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION each_row()",
    )


async def test_a_batch_that_takes_too_long_goes_in_smaller_ones(postgres_dsn: str) -> None:
    database = Database(postgres_dsn, statement_seconds=0.4)
    await migrate(database)
    await trigger(database, "PERFORM agentbus.nap()")
    await ask(database, "CREATE FUNCTION nap() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.004)'")
    writer = ArchiveWriter(database, "p")
    written = await writer.write([ended(number) for number in range(200)])
    assert (written.added, written.refused) == (200, [])
    assert len(await everything(database, by=1000)) == 200
    await database.close()


async def test_a_full_disk_is_no_reason_to_set_rows_aside(database: Database, writer: ArchiveWriter) -> None:
    await trigger(database, "RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'")
    with pytest.raises(ArchiveUnavailable, match="no space left"):
        await writer.write([ended(1), ended(2)])
    assert await ask(database, "SELECT count(*) FROM refused") == [(0,)]
    await ask(database, "DROP TRIGGER each_row ON messages")
    assert (await writer.write([ended(1), ended(2)])).added == 2


async def test_a_clock_that_is_ahead_drops_nothing(
    database: Database, writer: ArchiveWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=4000)

    await writer.prepare()
    monkeypatch.setattr("agentbus.archive.writer.datetime", Ahead)
    assert await writer.drop_older_than(timedelta(days=365)) == []


async def test_a_lock_that_somebody_holds_delays_and_harms_nothing(
    database: Database, writer: ArchiveWriter, postgres_dsn: str
) -> None:
    with psycopg.connect(postgres_dsn) as reader:
        reader.execute("SELECT count(*) FROM agentbus.messages")
        assert (await writer.write([ended(1)])).added == 1, "a long report does not hold up the archive"
