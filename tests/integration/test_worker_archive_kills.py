"""The archive through kills: of its workers, at any instruction, and of PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from agentbus import Agent, Bus, BusSettings, RetentionSettings
from agentbus.archive.connection import Database
from agentbus.archive.migrations import migrate
from agentbus.archive.writer import ArchiveWriter
from agentbus.broker.archiving import START, ArchivedInbox
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.postgres import PrivatePostgres
from tests.service import worker_process, working
from workers.archive import Archive

pytestmark = pytest.mark.chaos
Unique = Callable[[str], str]


def rows(dsn: str, prefix: str) -> list[tuple[Any, ...]]:
    """Return address, entry and envelope of every row of a deployment."""
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        found = connection.execute(
            "SELECT address, stream || ' ' || entry_ms || '-' || entry_seq, raw, outcome"
            " FROM agentbus.messages WHERE prefix = %s",
            (prefix,),
        )
        return found.fetchall()


def count(dsn: str) -> int:
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            row = connection.execute("SELECT count(*) FROM agentbus.messages").fetchone()
            return 0 if row is None else int(row[0])
    except psycopg.Error:
        return 0


async def all_committed(bus: Bus, names: list[str]) -> bool:
    for name in names:
        source = ArchivedInbox(bus.rooms.broker, bus.settings.prefix, f"agent.{name}")
        if (await source.records((await source.position()).to, 1)).any:
            return False
    return True


@asynccontextmanager
async def flow(bus: Bus, names: list[str], sent: list[int]) -> AsyncIterator[None]:
    """Agents that handle, fail once and reject, and somebody who sends, for the length of a block."""
    failed: set[int] = set()
    enough = asyncio.Event()

    async def handle(number: int) -> None:
        if number % 17 == 0 and number not in failed:
            failed.add(number)
            raise RuntimeError("once")

    async def send() -> None:
        # Not cancelled: of a batch that is broken off nobody knows what was stored.
        while not enough.is_set():
            begin = len(sent)
            numbers = range(begin, begin + 20)
            sent.extend(numbers)
            await bus.publish_many(f"agent.{names[begin // 20 % len(names)]}.task", numbers)
            await asyncio.sleep(0.02)

    agents = [Agent(name) for name in names]
    for agent in agents:
        agent.on("task")(handle)
    async with bus.serving(*agents):
        sender = asyncio.create_task(send())
        try:
            yield
        finally:
            enough.set()
            await sender
            for name in names:
                look = Look(bus, name)
                await eventually(lambda look=look: nothing_left(look), 40)


async def nothing_left(look: Look) -> bool:
    """Whether everything that was sent has ended; what waits for a retry is hurried up."""
    for message in await look.broker.execute("ZRANGE", look.keys.due, 0, -1):
        await look.broker.execute("ZADD", look.keys.due, "XX", 0, message)
    ledger = await look.ledger()
    return ledger.get("accepted", 0) == ledger.get("processed", 0)


async def test_workers_killed_in_a_loop_archive_exactly_what_ended(
    broker: BrokerForTests, unique: Unique, private_postgres: PrivatePostgres
) -> None:
    names = [unique("worker") for _ in range(3)]
    settings = BusSettings(prefix=unique("p"), retention=RetentionSettings(messages=50))
    dsn, sent = private_postgres.dsn, list[int]()
    async with Bus(broker.url, agent="tester", settings=settings) as bus:
        # Before the flow: nothing may be trimmed before the first worker has said that an archive is on.
        started = [worker_process(broker.url, settings.prefix, "archive", "--archive", dsn) for _ in range(2)]
        try:
            await eventually(Look(bus, names[0]).inbox.archive_is_on, 30)
            async with flow(bus, names, sent):
                for kill in range(5):
                    before = count(dsn)
                    await eventually(lambda before=before: count(dsn) > before, 30, pause=0.002)
                    # Rows have just been committed: this is where a position has not moved yet.
                    victim = started.pop(0)
                    victim.kill()
                    victim.wait()
                    if kill == 3:
                        private_postgres.kill()
                        private_postgres.restart()
                    started.append(worker_process(broker.url, settings.prefix, "archive", "--archive", dsn))
            await eventually(lambda: all_committed(bus, names), 40)
            found = rows(dsn, settings.prefix)
            numbers = Counter(json.loads(raw)["body"]["content"] for _, _, raw, _ in found)
            assert numbers == Counter(sent)
            assert {outcome for *_, outcome in found} == {"processed"}
            assert len({(address, entry) for address, entry, *_ in found}) == len(found)
            for name in names:
                look = Look(bus, name)
                assert await look.count("archive_missing") == 0
                await look.check_balance()
        finally:
            for process in started:
                process.kill()
                process.wait()


async def test_a_worker_killed_after_the_commit_and_before_the_position_moved_adds_nothing_twice(
    broker: BrokerForTests, unique: Unique, postgres_dsn: str
) -> None:
    name = unique("worker")
    async with Bus(broker.url, agent="tester", settings=BusSettings(prefix=unique("p"))) as bus:
        look = Look(bus, name)
        await look.inbox.join("reader")
        await bus.publish_many(f"agent.{name}.task", range(100))
        entries = await look.inbox.fetch("reader", 100, 1 << 20)
        for begin in range(0, len(entries), 10):
            ids = [entry.entry_id for entry in entries[begin : begin + 10]]
            await look.inbox.settle("reader", "processed", {entries[0].source: ids})
        # What such a worker leaves behind: rows of the first records, the position where it was.
        database = Database(postgres_dsn)
        await migrate(database)
        writer = ArchiveWriter(database, bus.settings.prefix)
        source = ArchivedInbox(bus.rooms.broker, bus.settings.prefix, f"agent.{name}")
        async for messages in source.bodies((await source.records(START, 4)).records):
            assert (await writer.write(messages)).added > 0
        await database.close()
        async with working(bus, Archive, archive=postgres_dsn):
            await eventually(lambda: all_committed(bus, [name]))
        found = rows(postgres_dsn, bus.settings.prefix)
        assert sorted(json.loads(raw)["body"]["content"] for _, _, raw, _ in found) == list(
            range(len(entries))
        )
        assert await look.count("archived") == len(entries)
