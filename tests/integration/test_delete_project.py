"""Deleting a project: nothing of it is left anywhere, the books close, and others lose nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import redis

from agentbus import Agent, Bus, BusSettings, ConfigurationError, InvalidValue, ProjectDeleted, Retry
from agentbus.archive.connection import Database
from agentbus.archive.eraser import ArchiveEraser
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.archiving import Archivist
from tests.chaos.books import look
from tests.past import Past, bodies

_AT_ONCE = Retry(max_retries=3, retry_delay="1ms")


@pytest_asyncio.fixture
async def past(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Past]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("project"))) as bus:
        yield await Past(bus, "reviewer").open()


def traces(broker: BrokerForTests, past: Past, word: str) -> list[str]:
    """Return every key of the deployment that holds a word, whatever its type, but the audit's."""
    found = []
    with redis.Redis.from_url(broker.url) as server:
        readers: dict[bytes, Callable[[Any], Any]] = {
            b"stream": server.xrange, b"hash": server.hgetall, b"string": server.get,
            b"set": server.smembers, b"zset": lambda key: server.zrange(key, 0, -1),
        }  # fmt: skip
        for key in server.scan_iter(f"{past.bus.settings.prefix}:*"):
            content = readers[server.type(key)](key)  # type: ignore[index]
            if b"{system.audit}" not in key and word in f"{key!r} {content!r}":
                found.append(key.decode())
    return sorted(found)


def books_close(broker: BrokerForTests, past: Past, *addresses: str) -> None:
    with redis.Redis.from_url(broker.url) as server:
        for address in addresses:
            found = look(server, address, past.bus.settings.prefix)
            assert found.difference == 0, (address, found)


async def fill(past: Past, project: str, word: str) -> None:
    """Put a message of a project wherever one can be."""
    own = {"project": project}
    await past.end(f"{word} ended", **own)
    await past.end("of nobody")
    await past.publish(f"{word} dead", **own)
    (dead,) = await past.fetch()
    await past.inbox.bury("c", dead, "rejected", "no", "", 3)
    past.held.clear()
    await past.publish(f"{word} resolved", **own)
    (dead,) = await past.fetch()
    burial = await past.inbox.bury("c", dead, "rejected", "no", "", 3)
    past.held.clear()
    assert burial is not None
    await past.bus.dead_letters.resolve(f"{past.address}:{burial.letter}", "done by hand")
    await past.publish(f"{word} due", delay="1h", **own)
    await past.publish("other", f"{word} held", project=project)
    await past.publish("other waits")
    await past.publish(f"{word} waits", priority="low", **own)
    await past.bus.publish("agent.unserved.task", f"{word} unserved", **own)
    for number in range(3):
        await past.bus.publish(f"project.{project}.commit", f"{word} {number}")
    await past.bus.publish("channel.design.note", f"{word} note", **own)
    await past.bus.publish("channel.design.note", "of others")
    await past.bus.schedules.add(
        "agent.reviewer.task", f"{word} tick", "interval:3600", name=f"mine-{project}", **own
    )
    await past.bus.schedules.add(f"project.{project}.tick", f"{word} tick", "interval:3600", name="theirs")


async def audit(past: Past) -> list[dict[str, Any]]:
    return bodies((await past.bus.history("system.audit", oldest_first=True)).entries)


async def test_nothing_of_a_project_is_left_anywhere_and_the_books_close(
    past: Past, broker: BrokerForTests
) -> None:
    await fill(past, "demo", "zebra")
    await fill(past, "demo-2", "giraffe")
    giraffes = traces(broker, past, "giraffe")
    await past.publish("zebra held", "zebra held too", project="demo")
    await past.fetch()
    await past.publish("zebra waits", project="demo", priority="low")
    before = await past.bus.delete_project("demo", reason="test", dry_run=True)
    assert len(traces(broker, past, "zebra")) >= 8 and await past.bus.history("project.demo")
    done = await past.bus.delete_project("demo", reason="the customer asked")
    assert done.counts == before.counts | {"left_waiting": done.counts["left_waiting"]}
    places = {place.address: place for place in done.places}
    assert (places["project.demo"].logged, places["project.demo"].schedules) == (3, 1)
    assert (places["channel.design"].logged, places["agent.unserved"].waiting) == (1, 1)
    reviewer = places["agent.reviewer"]
    assert (reviewer.waiting, reviewer.due, reviewer.dead, reviewer.schedules) == (1, 1, 1, 1)
    assert reviewer.left_in_flight == 2 and not done.complete
    books_close(broker, past, "agent.reviewer", "agent.unserved")
    # What was in flight ends, and goes with the next deletion.
    await past.settle(list(past.held))
    again = await past.bus.delete_project("demo", reason="the rest")
    assert again.complete and again.removed == reviewer.left_in_flight
    assert traces(broker, past, "zebra") == [] and traces(broker, past, "giraffe") == giraffes
    books_close(broker, past, "agent.reviewer", "agent.unserved")
    last = await past.bus.delete_project("demo", reason="nothing")
    assert (last.places, last.removed) == ((), 0)
    first, second = (await audit(past))[:2]
    assert (first["phase"], first["project"], first["by"], first["reason"]) == (
        "intent", "demo", "planner", "the customer asked",
    )  # fmt: skip
    assert (second["phase"], second["counts"]) == ("result", done.counts)


async def test_what_stands_behind_others_goes_with_them_and_nobody_gets_it(
    past: Past, broker: BrokerForTests
) -> None:
    await past.publish("first")
    (zebra,) = await past.publish("zebra", project="demo")
    await past.bus.publish("agent.broken.task", 1)
    await past.call("SET", f"{past.bus.settings.prefix}:{{agent.broken}}:delayed", "somebody's hand")
    done = await past.bus.delete_project("demo", reason="test")
    assert list(done.refused) == ["agent.broken"] and not done.complete
    assert [place.address for place in (await past.bus.cancel(zebra)).places] == [past.address]
    assert (done.counts["waiting"], done.counts["left_waiting"], done.removed) == (1, 1, 0)
    assert [json.loads(entry.message)["body"]["content"] for entry in await past.fetch()] == ["first"]
    assert (await past.bus.delete_project("demo", reason="test")).removed == 1
    assert traces(broker, past, "zebra") == []
    books_close(broker, past, past.address)


async def test_an_agent_that_reads_the_channel_goes_on_at_an_empty_one(
    past: Past, broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    project, seen = unique("live"), list[Any]()
    agent = Agent(unique("reader"))

    @agent.on(f"project.{project}.note")
    async def note(body: Any) -> None:
        seen.append(body)

    async with past.bus.serving(agent):
        await past.bus.publish(f"project.{project}.note", "before")
        await eventually(lambda: seen == ["before"])
        await past.bus.delete_project(project, reason="test")

        async def reads_again() -> bool:
            await past.bus.publish(f"project.{project}.note", "after")
            await asyncio.sleep(0.05)
            return "after" in seen

        await eventually(reads_again)
    assert seen.count("before") == 1


async def test_rows_of_the_archive_go_too_and_an_archive_that_is_not_known_is_no_silent_rest(
    broker: BrokerForTests, postgres_dsn: str, unique: Callable[[str], str]
) -> None:
    settings = BusSettings(prefix=unique("archived"), archive=postgres_dsn)
    database = Database(postgres_dsn)
    async with Bus(broker.url, agent="planner", settings=settings) as bus:
        past = await Past(bus, "reviewer").open()
        archivist = await Archivist(bus, database).open()
        await past.end(*range(5), project="demo")
        await past.end("of others")
        await bus.publish("project.demo.note", "zebra")
        await archivist.records(past.address)
        await archivist.log("project.demo")
        await past.end("not archived yet", project="demo")
        done: list[ProjectDeleted] = []
        for dry_run in (True, False, False):
            done.append(await bus.delete_project("demo", reason="test", dry_run=dry_run))
        assert [one.archive for one in done] == [6, 6, 0]
        assert await ArchiveEraser(database, settings.prefix).count("demo") == 0
        # Only the ends are known any more, and the history says so.
        page = await bus.history("reviewer")
        assert [body for body in bodies(page.entries) if body is not None] == ["of others"]
        assert not page.complete
        await database.close()
        await past.call("HSET", f"{settings.prefix}:archive", "on", "1")
    async with Bus(broker.url, settings=BusSettings(prefix=settings.prefix)) as bus:
        with pytest.raises(ConfigurationError, match="this deployment archives"):
            await bus.delete_project("demo", reason="test")
        assert (await bus.delete_project("demo", reason="test", keep_archive=True)).archive is None


@pytest.mark.parametrize("project", ["*", "a.b", "", "Demo", ">"])
async def test_only_one_project_by_its_id_can_be_deleted(past: Past, project: str) -> None:
    with pytest.raises(InvalidValue, match=r"^project: "):
        await past.bus.delete_project(project, reason="test")
    with pytest.raises(InvalidValue, match=r"^reason: "):
        await past.bus.delete_project("demo", reason=" ")
    assert await audit_is_empty(past)


async def audit_is_empty(past: Past) -> bool:
    return await past.call("EXISTS", f"{past.bus.settings.prefix}:{{system.audit}}:log") == 0


async def test_deleting_beside_agents_that_work_costs_others_nothing(
    past: Past, broker: BrokerForTests
) -> None:
    handled: list[str] = []
    agents = [Agent("left", concurrency=3), Agent("right", concurrency=1)]
    for agent in agents:

        @agent.on("task")
        async def work(text: str) -> None:
            await asyncio.sleep(0.001)
            handled.append(text)
            if text[-1] in "78" and handled.count(text) == 1:
                raise ValueError("once more")

    async def publish(number: int) -> None:
        for part in range(40):
            of = {"project": "demo"} if part % 2 else {}
            body = f"{'zebra' if part % 2 else 'other'} {number} {part}"
            await past.bus.publish(f"agent.{agents[part % 3 % 2].name}.task", body, retry=_AT_ONCE, **of)  # type: ignore[arg-type]

    async with past.bus.serving(*agents):
        publishing = [asyncio.create_task(publish(number)) for number in range(8)]
        for _ in range(3):
            await asyncio.gather(*(past.bus.delete_project("demo", reason="test") for _ in range(2)))
        await asyncio.gather(*publishing)

        async def deleted() -> bool:
            return (await past.bus.delete_project("demo", reason="test")).complete

        await eventually(deleted)
        wanted = {f"other {number} {part}" for number in range(8) for part in range(0, 40, 2)}
        await eventually(lambda: wanted <= set(handled))

        async def settled() -> bool:
            with redis.Redis.from_url(broker.url) as server:
                books = [look(server, f"agent.{each.name}", past.bus.settings.prefix) for each in agents]
            return all(each.unsettled == 0 and each.difference == 0 for each in books)

        await eventually(settled)
    others = [text for text in handled if text.startswith("other")]
    # Each once, and once more where the handler asked for it.
    assert sorted(others) == sorted([*wanted, *(text for text in wanted if text[-1] == "8")])
    await past.bus.delete_project("demo", reason="test")
    assert traces(broker, past, "zebra") == []
