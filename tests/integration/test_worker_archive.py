"""Role archive: everything that ended is in PostgreSQL once, with its end, and Redis waits until it is."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agentbus import Agent, Bus, BusSettings, PublisherSettings, QueueFull, Reject, RetentionSettings, Retry
from agentbus.archive.connection import Database
from agentbus.archive.reader import ArchivedMessage, ArchiveQuery, ArchiveReader
from agentbus.broker.archiving import ArchivedInbox, ArchiveSwitch
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.kept import Window
from agentbus.broker.worker_registry import WorkerRegistry
from agentbus.message.address_policy import Policy
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays
from tests.postgres import PrivatePostgres
from tests.service import working
from workers.__main__ import main
from workers.archive import Archive
from workers.role import Ground
from workers.settings import WorkerSettings
from workers.share import Share

Unique = Callable[[str], str]
NODES = 200


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    settings = BusSettings(prefix=unique("p"), publisher=PublisherSettings(deadline=2.0))
    async with Bus(broker.url, agent="tester", settings=settings) as opened:
        yield opened


async def archived(bus: Bus, dsn: str, address: str) -> list[ArchivedMessage]:
    """Return every row of an address, oldest first."""
    database = Database(dsn)
    try:
        reader = ArchiveReader(database, bus.settings.prefix)
        return await reader.page(ArchiveQuery(address, Window(None, None, newest_first=False)), 100_000)
    finally:
        await database.close()


def contents(rows: list[ArchivedMessage]) -> list[Any]:
    return [json.loads(row.message)["body"]["content"] for row in rows]


async def caught_up(bus: Bus, name: str, least: int = 1) -> bool:
    """Whether everything that has ended at an inbox, so many messages at least, is committed."""
    source = ArchivedInbox(bus.rooms.broker, bus.settings.prefix, f"agent.{name}")
    ledger = await Look(bus, name).ledger()
    ended = sum(ledger.get(each, 0) for each in ("processed", "expired", "discarded", "resolved"))
    return ended >= least and not (await source.records((await source.position()).to, 1)).any


async def end(bus: Bus, name: str, count: int) -> None:
    """Publish, take and settle so many."""
    look = Look(bus, name)
    if "reader" not in await look.alive():
        await look.inbox.join("reader")
    await bus.publish_many(f"agent.{name}.task", range(count))
    await settle(bus, name, count)


async def settle(bus: Bus, name: str, count: int) -> None:
    look = Look(bus, name)
    while count > 0:
        entries = await look.inbox.fetch("reader", min(count, 500), 1 << 24)
        sources: dict[int, list[bytes]] = {}
        for each in entries:
            sources.setdefault(each.source, []).append(each.entry_id)
        await look.inbox.settle("reader", "processed", sources)
        count -= len(entries)


async def trim(look: Look) -> None:
    more = True
    while more:
        _, more = await look.inbox.trim(0, 0, 1, await look.inbox.archive_is_on())


# --- what is archived ---


async def test_every_end_is_archived_once_with_what_ended(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    name = unique("worker")
    agent = Agent(name)
    failed: Counter[int] = Counter()

    @agent.on("task", retry=Retry(max_retries=3, retry_delay=0.01))
    async def handle(number: int) -> None:
        if number % 10 == 3 and not failed[number]:
            failed[number] += 1
            raise RuntimeError("once")
        if number % 10 == 7:
            raise Reject("never")

    async with working(bus, Archive, archive=postgres_dsn), bus.serving(agent):
        await bus.publish_many(f"agent.{name}.task", range(100))
        await eventually(lambda: caught_up(bus, name, 90), 20)
        rows = await archived(bus, postgres_dsn, f"agent.{name}")
    assert Counter(row.outcome for row in rows) == {"processed": 90}
    assert sorted(contents(rows)) == [number for number in range(100) if number % 10 != 7]
    assert {row.attempts for row in rows if contents([row])[0] % 10 == 3} == {2}
    assert all(row.consumer for row in rows)
    assert await Look(bus, name).count("archived") == len(rows)


async def test_expired_discarded_resolved_and_dropped_ones_come_with_their_ends(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    name = unique("worker")
    look = Look(bus, name)
    await look.inbox.join("reader")
    for number, ttl in enumerate(("1h", "1ms", "1h", "1h")):
        await bus.publish(f"agent.{name}.task", number, ttl=ttl)
    await asyncio.sleep(0.01)
    first, *others = await look.inbox.fetch("reader", 4, 1 << 20)
    await look.inbox.settle("reader", "discarded", {first.source: [first.entry_id]})
    letters = []
    for other in others:
        buried = await look.inbox.bury("reader", other, "rejected", "no", '{"error":"no"}', 3)
        assert buried is not None
        letters.append(f"agent.{name}:{buried.letter}")
    async with working(bus, Archive, archive=postgres_dsn):
        await eventually(lambda: caught_up(bus, name, 2))
        assert len(await archived(bus, postgres_dsn, f"agent.{name}")) == 2, "dead letters have not ended"
        await bus.dead_letters.resolve(letters[0], "fixed by hand")
        await bus.dead_letters.drop(letters[1])
        await eventually(lambda: caught_up(bus, name, 4))
    rows = {contents([row])[0]: row for row in await archived(bus, postgres_dsn, f"agent.{name}")}
    assert {number: row.outcome for number, row in rows.items()} == {
        0: "discarded", 1: "expired", 2: "resolved", 3: "discarded",
    }  # fmt: skip
    assert rows[2].details["resolution"] == "fixed by hand"
    assert {rows[number].details["reason"] for number in (2, 3)} == {"rejected"}
    assert {rows[number].attempts for number in (2, 3)} == {1}
    await look.check_balance()


async def test_one_that_expires_before_it_is_due_is_archived(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    name = unique("worker")
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", 1, delay="20ms", ttl="30ms")
    await asyncio.sleep(0.05)
    await look.inbox.promote(60_000)
    async with working(bus, Archive, archive=postgres_dsn):
        await eventually(lambda: caught_up(bus, name, 1))
    (row,) = await archived(bus, postgres_dsn, f"agent.{name}")
    assert (row.outcome, row.stream, contents([row])) == ("expired", "ended", [1])


async def test_channels_are_archived_at_once(bus: Bus, unique: Unique, postgres_dsn: str) -> None:
    address = f"channel.{unique('design')}"
    await bus.publish_many(f"{address}.note", range(60))
    async with working(bus, Archive, archive=postgres_dsn):
        await bus.publish_many(f"{address}.note", range(60, 1000))

        async def complete() -> bool:
            return len(await archived(bus, postgres_dsn, address)) == 1000

        await eventually(complete)
    rows = await archived(bus, postgres_dsn, address)
    assert contents(rows) == list(range(1000))
    assert {row.outcome for row in rows} == {"logged"}


async def test_what_ended_before_the_archive_was_on_is_taken_too(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    names = [unique("worker") for _ in range(30)]
    for number, name in enumerate(names):
        await end(bus, name, 10 + number)
    async with working(bus, Archive, archive=postgres_dsn):
        for number, name in enumerate(names):
            await eventually(lambda name=name, least=10 + number: caught_up(bus, name, least))
            assert len(await archived(bus, postgres_dsn, f"agent.{name}")) == 10 + number


async def test_what_somebody_deleted_is_counted_reported_and_holds_up_nothing(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    name = unique("worker")
    await end(bus, name, 20)
    look = Look(bus, name)
    entries = await look.broker.execute("XRANGE", look.keys.sources[3], "-", "+", "COUNT", 5)
    await look.broker.execute("XDEL", look.keys.sources[3], *(entry for entry, _ in entries))
    async with working(bus, Archive, archive=postgres_dsn):
        await eventually(lambda: caught_up(bus, name, 20))
        await end(bus, name, 5)
        await eventually(lambda: caught_up(bus, name, 25))
    assert len(await archived(bus, postgres_dsn, f"agent.{name}")) == 20
    assert await look.count("archive_missing") == 5
    assert bus.events.counts["archive_missing"] == 1


async def test_a_settlement_that_lists_more_than_it_ended_adds_no_row(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    name = unique("worker")
    look = Look(bus, name)
    await look.inbox.join("reader")
    await bus.publish_many(f"agent.{name}.task", range(6))
    ids = [entry.entry_id for entry in await look.inbox.fetch("reader", 6, 1 << 20)]
    async with working(bus, Archive, archive=postgres_dsn):
        # In one round of the archive, or in several: each lists what ended by the one before.
        for count in (1, 3, 5, 6):
            assert await look.inbox.settle("reader", "processed", {3: ids[:count]}) > 0
        await eventually(lambda: caught_up(bus, name, 6))
    assert sorted(contents(await archived(bus, postgres_dsn, f"agent.{name}"))) == list(range(6))


async def test_an_address_that_is_never_archived_is_left_out_and_trimmed(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    name, other = unique("worker"), unique("worker")
    await bus.declare(f"agent.{name}", Policy(archive="never"))
    await end(bus, name, 10)
    await end(bus, other, 10)
    async with working(bus, Archive, archive=postgres_dsn):
        await eventually(lambda: caught_up(bus, other, 10))
    assert await archived(bus, postgres_dsn, f"agent.{name}") == []


async def test_one_spoilt_address_does_not_stop_the_others(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    spoilt, name = unique("spoilt"), unique("worker")
    await end(bus, spoilt, 1)
    await end(bus, name, 10)
    look = Look(bus, spoilt)
    await look.broker.execute("DEL", look.keys.outcomes)
    await look.broker.execute("SET", look.keys.outcomes, "no stream")
    async with working(bus, Archive, archive=postgres_dsn) as roles:
        await eventually(lambda: caught_up(bus, name, 10))
        await eventually(lambda: "WRONGTYPE" in roles["archive"].report.last_error)


async def test_addresses_where_nothing_happens_are_looked_at_together(
    bus: Bus, unique: Unique, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"agent.{unique('idle')}" for _ in range(300)]
    await asyncio.gather(*(bus.publish(f"{name}.task", 1) for name in names))
    ground = Ground(bus, WorkerSettings(archive=postgres_dsn, addresses_per_second=1e6), Share("alone"))
    role = Archive(ground)
    await role.start()
    # The first pass notes a border for each, and that what ends counts.
    await role.archive()
    await role.watch()
    trips: list[str] = []

    def counted(verb: Callable[..., Any]) -> Callable[..., Any]:
        async def trip(*arguments: Any) -> Any:
            trips.append(verb.__name__)
            return await verb(*arguments)

        return trip

    monkeypatch.setattr(Broker, "execute", counted(Broker.execute))
    monkeypatch.setattr(Broker, "pipeline", counted(Broker.pipeline))
    await role.archive()
    await role.watch()
    await role.stop()
    assert 0 < len(trips) < 30


# --- PostgreSQL in trouble ---


async def test_nothing_is_lost_or_doubled_while_postgres_is_down_frozen_or_killed(
    bus: Bus, unique: Unique, private_postgres: PrivatePostgres
) -> None:
    name, dsn = unique("worker"), private_postgres.dsn
    private_postgres.stop()
    async with working(bus, Archive, archive=dsn) as roles:
        # Down from the start.
        await end(bus, name, 50)
        await eventually(lambda: "ArchiveUnavailable" in roles["archive"].report.last_error)
        look = Look(bus, name)
        await trim(look)
        assert (await look.lengths())["normal"] == 50, "retention waits"
        private_postgres.restart()
        await eventually(lambda: caught_up(bus, name, 50), 20)
        private_postgres.freeze()
        await end(bus, name, 50)
        await stays(lambda: not roles["archive"].ground.stopping.is_set(), 1.0)
        private_postgres.thaw()
        await eventually(lambda: caught_up(bus, name, 100), 20)
        for _ in range(3):
            private_postgres.kill()
            await end(bus, name, 20)
            private_postgres.restart()
        await eventually(lambda: caught_up(bus, name, 160), 20)
        assert len(await archived(bus, dsn, f"agent.{name}")) == 160
        assert await look.count("archive_missing") == 0


async def test_an_address_fills_up_while_the_archive_is_away_and_empties_when_it_is_back(
    bus: Bus, unique: Unique, private_postgres: PrivatePostgres
) -> None:
    name, lossy = unique("worker"), unique("lossy")
    await bus.declare(f"agent.{name}", Policy(limit=100))
    await bus.declare(f"agent.{lossy}", Policy(limit=100, archive="may_lose"))
    async with working(bus, Archive, archive=private_postgres.dsn):
        await end(bus, name, 10)
        await end(bus, lossy, 10)
        await eventually(lambda: caught_up(bus, name, 10))
        look = Look(bus, name)
        await eventually(lambda: look.count("archiving"))
        private_postgres.stop()
        for _ in range(4):
            await end(bus, name, 25)
            await end(bus, lossy, 25)
        with pytest.raises(QueueFull, match="100 of them have ended and wait for the archive"):
            await bus.publish(f"agent.{name}.task", 0)
        await end(bus, lossy, 25)
        await eventually(lambda: bus.events.counts["archive_lag"] >= 1, 15)
        private_postgres.restart()
        await eventually(lambda: caught_up(bus, name, 110), 20)
        await end(bus, name, 100)
        await eventually(lambda: caught_up(bus, name, 210), 20)
        assert len(await archived(bus, private_postgres.dsn, f"agent.{name}")) == 210
        await trim(look)
        assert (await look.lengths())["normal"] <= NODES


async def test_subscribers_keep_history_for_the_archive(
    broker: BrokerForTests, unique: Unique, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the role retention, the subscribers of an address trim it: they wait for the archive too."""
    monkeypatch.setattr("agentbus.receive.housekeeping.TRIM_INTERVAL", 0.5)
    name = unique("worker")
    settings = BusSettings(prefix=unique("p"), retention=RetentionSettings(messages=10))
    agent = Agent(name)

    @agent.on("task")
    async def handle() -> None: ...

    async with Bus(broker.url, agent="tester", settings=settings) as bus:
        await ArchiveSwitch(bus.rooms.broker, settings.prefix).turn_on()
        look = Look(bus, name)
        async with bus.serving(agent):
            await bus.publish_many(f"agent.{name}.task", range(1000))

            async def all_are_there() -> bool:
                return (await look.lengths())["normal"] == 1000

            await eventually(lambda: caught_up_count(look, 1000))
            # Longer than the pause between two trims, several times.
            await stays(all_are_there, 2.0)
            async with working(bus, Archive, archive=postgres_dsn):
                await eventually(lambda: caught_up(bus, name, 1000))

                async def trimmed() -> bool:
                    return (await look.lengths())["normal"] <= 10 + NODES

                await eventually(trimmed, 15)
        assert sorted(contents(await archived(bus, postgres_dsn, f"agent.{name}"))) == list(range(1000))


async def caught_up_count(look: Look, processed: int) -> bool:
    return await look.count("processed") == processed


# --- the role among others ---


async def test_without_a_database_the_role_is_off_says_so_and_does_nobodys_share(
    bus: Bus, unique: Unique, postgres_dsn: str
) -> None:
    names = [unique("worker") for _ in range(8)]
    for name in names:
        await end(bus, name, 3)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(working(bus, Archive))
        registry = WorkerRegistry(bus.rooms.broker, bus.settings.prefix)
        roll = await registry.roll()
        assert [worker.roles["archive"].idle for worker in roll.workers] == ["off: no AGENTBUS_ARCHIVE"] * 3
        assert not await Look(bus, names[0]).inbox.archive_is_on()
        await stack.enter_async_context(working(bus, Archive, archive=postgres_dsn))
        for name in names:
            await eventually(lambda name=name: caught_up(bus, name, 3))


def test_the_role_by_name_without_a_database_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AGENTBUS_ARCHIVE", raising=False)
    assert main(["archive"]) == 2
    assert "AGENTBUS_ARCHIVE" in capsys.readouterr().err


def test_a_bad_connection_string_or_time_to_keep_ends_the_process_with_a_reason(
    broker: BrokerForTests, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["archive", "--archive", "secret=1 x", "--url", broker.url]) == 2
    printed = capsys.readouterr().err
    assert "connection string" in printed
    assert "secret=1" not in printed
    monkeypatch.setenv("AGENTBUS_ARCHIVE_KEEP", "for ever")
    assert main(["archive", "--archive", "dbname=x", "--url", broker.url]) == 2
    assert "AGENTBUS_ARCHIVE_KEEP" in capsys.readouterr().err
