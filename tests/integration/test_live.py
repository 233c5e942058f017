"""Live events on a real server: heard by those who watch, marked where missed, kept nowhere."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
import redis.asyncio

from agentbus import Bus, BusSettings, InvalidTopic, InvalidValue, Message, Watch, WatchGap
from agentbus.broker.embedded import PrivateBroker
from agentbus.errors import BrokerUnavailable, ConfigurationError
from agentbus.testing import BrokerForTests
from tests.acceptance.pages import shell_lines
from tests.acceptance.programs import ROOT
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="watcher", settings=BusSettings(prefix=unique("live"))) as opened:
        yield opened


async def _take(events: Watch, many: int) -> list[Any]:
    """The content of so many events; a gap stands for itself."""
    taken: list[Any] = []
    async with asyncio.timeout(5), aclosing(aiter(events)) as seen:  # type: ignore[type-var]
        async for event in seen:
            taken.append(event if isinstance(event, WatchGap) else event.content)
            if len(taken) == many:
                return taken
    return taken


async def _subscriptions(client: Any, bus: Bus) -> int:
    prefix = bus.settings.prefix
    # Patterns are not listed by name: an event finds out whether anybody would hear it.
    return int(await client.publish(f"{prefix}:live:agent.planner.status", b"{}"))


async def test_who_watches_hears_what_matches_and_nothing_is_stored(bus: Bus, client: Any) -> None:
    assert await bus.emit("agent.planner.status", "nobody hears this") == 0
    async with bus.watch("agent.*.status") as wide, bus.watch("agent.planner.status") as narrow:
        assert await bus.emit("agent.planner.status", {"load": 1}, correlation_id="c") == 2
        await bus.emit("agent.planner.status.low", "one part too many for both, though not for the server")
        await bus.emit("channel.planner.status", "another kind")
        await bus.emit("agent.writer.status", b"\x00\xff")
        assert await _take(wide, 2) == [{"load": 1}, b"\x00\xff"]
        await bus.emit("agent.planner.status", "last")
        assert await _take(narrow, 2) == [{"load": 1}, "last"]
    assert [key async for key in client.scan_iter(f"{bus.settings.prefix}:*")] == []


async def test_an_event_is_a_message_with_its_sender_and_fields(bus: Bus) -> None:
    async with bus.watch("project.demo.>") as events:
        await bus.emit("project.demo.note.short", 1, correlation_id="c", project="demo", extra={"mine": 2})
        async for event in events:
            assert isinstance(event, Message)
            assert (event.from_agent, event.channel) == ("watcher", "project.demo")
            assert (event.message_type, event.correlation_id) == ("note.short", "c")
            assert event.envelope["mine"] == 2
            break


async def test_a_watch_closes_by_break_cancellation_its_block_and_its_bus(bus: Bus, client: Any) -> None:
    async def until_first() -> None:
        async for _ in bus.watch("agent.planner.*"):
            break

    async def for_ever() -> None:
        async for _ in bus.watch("agent.planner.*"):
            pass

    for way in (until_first, for_ever):
        task = asyncio.create_task(way())
        await eventually(lambda: _subscriptions(client, bus))
        await bus.emit("agent.planner.status", 1)
        if way is for_ever:
            task.cancel()
        await asyncio.wait((task,))
        await eventually(lambda: _no_more(client, bus))
    async with bus.watch("agent.planner.*") as events:
        await bus.emit("agent.planner.status", "heard before")
        await eventually(lambda: bool(events._buffer))
    assert await _take(events, 2) == ["heard before"]
    with pytest.raises(ConfigurationError, match="entered before"):
        await events.__aenter__()
    last = asyncio.create_task(for_ever())
    await eventually(lambda: _subscriptions(client, bus))
    await bus.close()
    async with asyncio.timeout(5):
        await last
    assert await _no_more(client, bus)


async def _no_more(client: Any, bus: Bus) -> bool:
    return await _subscriptions(client, bus) == 0


async def test_a_reader_that_is_too_slow_is_told_how_much_it_missed_and_where(bus: Bus) -> None:
    async with bus.watch("agent.*.status", buffer=10) as events:
        for number in range(35):
            await bus.emit("agent.planner.status", number)
        await eventually(lambda: events._buffer._items and events._buffer._items[-1].content == 34)
        await bus.emit("agent.planner.status", 35)
        await eventually(lambda: events._buffer._items[-1].content == 35)
        assert await _take(events, 11) == [WatchGap(26), *range(26, 36)]


@pytest.mark.usefixtures("quick")
async def test_stored_messages_are_mirrored_while_somebody_watches_them(
    bus: Bus, broker: BrokerForTests, client: Any
) -> None:
    async with Bus(broker.url, agent="sender", settings=bus.settings) as sender:
        before = (await client.info("commandstats")).get("cmdstat_publish", {"calls": 0})["calls"]
        await sender.publish("agent.planner.task", "nobody watches")
        after = (await client.info("commandstats")).get("cmdstat_publish", {"calls": 0})["calls"]
        assert after == before
        async with bus.watch("*.planner.>", stored=True) as events, bus.watch("agent.planner.>") as live:
            await sender.publish("agent.planner.task", 1, key="k")
            await sender.publish("agent.planner.task", 1, key="k")
            await sender.publish("agent.writer.task", "does not match")
            await sender.publish_many("channel.planner.note", range(2, 50))
            await sender.emit("agent.planner.status", 50)
            assert await _take(events, 50) == list(range(1, 51))
            assert await _take(live, 1) == [50]


async def test_a_watcher_survives_a_restart_of_the_broker_and_marks_it(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="watcher") as bus, bus.watch("agent.*.status") as events:
        await bus.emit("agent.planner.status", 1)
        assert await _take(events, 1) == [1]
        await asyncio.to_thread(server.restart)
        assert await _take(events, 1) == [WatchGap(None)]
        # The first may find a connection of before the restart; an event is never repeated by the bus.
        await eventually(lambda: _emitted(bus, 2))
        assert await _take(events, 1) == [2]


async def _emitted(bus: Bus, body: int) -> bool:
    try:
        return await bus.emit("agent.planner.status", body) == 1
    except BrokerUnavailable:
        return False


async def test_what_can_never_work_is_refused_before_anything_happens(bus: Bus) -> None:
    with pytest.raises(InvalidValue, match="ttl: is no option of a live event"):
        await bus.emit("agent.planner.status", 1, ttl="5s")  # type: ignore[call-arg]
    with pytest.raises(InvalidTopic, match="wildcard"):
        await bus.emit("agent.*.status", 1)
    with pytest.raises(InvalidTopic, match="everything=True"):
        bus.watch(">")
    for wrong in (0, True, "10"):
        with pytest.raises(InvalidValue, match="buffer"):
            bus.watch("agent.>", buffer=wrong)  # type: ignore[arg-type]
    bus.watch(">", everything=True)


async def test_what_is_no_message_is_an_event_of_the_bus_and_disturbs_no_watcher(
    bus: Bus, client: Any
) -> None:
    async with bus.watch("agent.planner.>") as events:
        await client.publish(f"{bus.settings.prefix}:live:agent.planner.status", b"not a message")
        await bus.emit("agent.planner.status", 1)
        assert await _take(events, 1) == [1]
    assert bus.events.counts["malformed_event"] == 1


async def test_the_rights_in_operations_are_enough_to_watch(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    (grant,) = [
        line
        for line in shell_lines(ROOT / "docs" / "operations.md")
        if line.startswith("redis-cli ACL SETUSER")
    ]
    admin = redis.asyncio.Redis.from_url(server.url, protocol=2)
    await admin.execute_command(*shlex.split(grant)[1:])
    await admin.aclose()
    url = server.url.replace("unix://", "unix://agentbus:change-me@")
    async with Bus(url, agent="watcher") as bus, bus.watch("agent.*.status", stored=True) as events:
        await bus.emit("agent.planner.status", 1)
        await bus.emit("agent.planner.task", "the wider subscription hears this, the watcher does not")
        await bus.publish("agent.planner.status", 2)
        assert await _take(events, 2) == [1, 2]
