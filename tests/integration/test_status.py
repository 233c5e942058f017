"""The status of the bus, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import Agent, Bus, BusSettings, BusStatus, Reject, Retry
from agentbus.broker.inspection.counts import InboxCounts, count_addresses
from agentbus.broker.keys import SOURCES, addresses, channel_keys, inbox_keys
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="tester", settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


async def command(bus: Bus, *arguments: Any) -> Any:
    return await bus.rooms.broker.execute(*arguments)


async def counted(bus: Bus, name: str) -> InboxCounts:
    [counts] = await count_addresses(bus.rooms.broker, bus.settings.prefix, [f"agent.{name}"])
    assert isinstance(counts, InboxCounts)
    return counts


async def test_every_number_is_that_of_the_walk(bus: Bus) -> None:
    agent = Agent("busy")

    @agent.on("task")
    async def task(body: str) -> None:
        if body == "fail":
            raise RuntimeError("again later")
        if body == "reject":
            raise Reject("never")

    for body in ("work", "work", "fail", "reject"):
        await bus.publish("agent.busy.task", body, retry=Retry(retry_delay="1h"))
    async with bus.serving(agent):
        await eventually(lambda: is_done(bus))
    await bus.publish("agent.busy.task", "later", delay="1h")
    await bus.publish("agent.busy.task", "urgent", priority="critical")
    for _ in range(3):
        await bus.publish("agent.busy.task", "waiting")
    async with bus.pulling("busy") as puller:
        held = await puller.next()
        assert held is not None
        [status] = (await bus.status()).addresses
        view = await bus.inspect("busy")
        assert (status.consumers, status.in_flight, status.waiting) == (1, 1, view.waiting) == (1, 1, 3)
        await held.ack()
    [status] = (await bus.status()).addresses
    view = await bus.inspect("busy")
    assert (status.waiting, status.in_flight, status.due, status.dead) == (view.waiting, 0, view.due, 1)
    assert sum(depth or 0 for depth in status.depths.values()) == view.waiting == 3
    # The entry handed out last was a dead letter: the server does not know the depth of its lane.
    assert status.estimated and status.consumers == 0
    assert status.counters["accepted"] == view.ledger.accepted == 9
    assert status.counters["processed"] == view.ledger.ended["processed"] == 3
    assert status.oldest_ms is not None and status.oldest_ms < 30_000


async def is_done(bus: Bus) -> bool:
    view = await bus.inspect("busy")
    return view.waiting == view.in_flight == 0


async def test_an_inbox_that_nobody_ever_joined_has_a_depth(bus: Bus) -> None:
    await bus.publish_many("agent.new.task", range(5), priority="low")
    found = await counted(bus, "new")
    assert (found.depths["low"], found.waiting, found.consumers, found.estimated) == (5, 5, 0, False)


async def lose_count(bus: Bus, stream: str, ledger: str) -> None:
    """End two entries of a lane, the second as a dead letter does: the server loses count of the rest."""
    await command(bus, "XGROUP", "CREATE", stream, "inbox", "0")
    reply = await command(bus, "XREADGROUP", "GROUP", "inbox", "c", "COUNT", 2, "STREAMS", stream, ">")
    handled, gone = (entry[0] for entry in reply[0][1])
    await command(bus, "XACK", stream, "inbox", handled, gone)
    await command(bus, "XDEL", stream, gone)
    await command(bus, "HINCRBY", ledger, "processed", 2)


@pytest.mark.parametrize(("lost", "depths"), [
    (["high"], {"high": 2, "low": 4}), (["high", "low"], {"high": None, "low": None}),
])  # fmt: skip
async def test_a_depth_that_the_server_has_lost_is_worked_out_from_the_ledger(
    bus: Bus, lost: list[str], depths: dict[str, int | None]
) -> None:
    keys = inbox_keys(bus.settings.prefix, "agent.lost")
    for priority in ("high", "low"):
        await bus.publish_many("agent.lost.task", range(4), priority=priority, durability="stream")
    for priority in lost:
        await lose_count(bus, keys.sources[SOURCES.index(priority)], keys.ledger)
    found = await counted(bus, "lost")
    assert found.estimated
    assert found.waiting == (await bus.inspect("lost")).waiting == 8 - 2 * len(lost)
    [status] = (await bus.status()).addresses
    assert status.depths == depths and status.waiting == found.waiting


async def test_many_inboxes_are_summed_beyond_the_deepest_two_hundred(bus: Bus) -> None:
    prefix = bus.settings.prefix
    commands: list[tuple[Any, ...]] = []
    for number in range(230):
        keys = inbox_keys(prefix, f"agent.n{number}")
        commands.append(("SADD", addresses(prefix), keys.address))
        commands.append(("HSET", keys.ledger, "accepted", number))
        commands += [("XADD", keys.sources[3], "*", "message", "{}") for _ in range(number % 50)]
    await bus.rooms.broker.pipeline(commands)
    status = await bus.status()
    assert (len(status.addresses), status.rest.addresses, status.total.addresses) == (200, 30, 230)
    depths = [each.waiting for each in status.addresses]
    assert depths == sorted(depths, reverse=True)
    everything = sum(number % 50 for number in range(230))
    assert status.total.waiting == everything == sum(depths) + status.rest.waiting
    assert status.total.accepted == sum(range(230))
    assert status.rest.waiting <= 30 * min(depths)


async def test_one_damaged_address_hides_no_other(bus: Bus) -> None:
    prefix = bus.settings.prefix
    await bus.publish("agent.fine.task", 1)
    await command(bus, "SADD", addresses(prefix), "agent.typed", "channel.typed")
    await command(bus, "SET", inbox_keys(prefix, "agent.typed").sources[2], "a string")
    await command(bus, "SET", channel_keys(prefix, "channel.typed").log, "a string")
    status = await bus.status()
    assert [each.address for each in status.addresses] == ["agent.fine"]
    assert set(status.problems) == {"agent.typed", "channel.typed"}


async def test_channels_and_the_server_are_told(bus: Bus) -> None:
    await bus.publish_many("channel.design.note", [1, 2])
    last = await bus.publish("project.apollo.note", 1)
    status = await bus.status()
    assert [(each.address, each.length, each.accepted) for each in status.channels] == [
        ("project.apollo", 1, 1), ("channel.design", 2, 2),
    ]  # fmt: skip
    assert status.channels[0].last_entry_id == last.entry_id
    assert status.channel_count == 2 and status.total == status.rest and status.workers == 0
    assert status.server is not None and status.server.used_memory > 0 and status.server.clients > 0


async def test_rates_come_from_the_look_before_or_from_what_was_published(bus: Bus) -> None:
    await bus.publish("agent.fast.task", 1)
    before = await bus.status()
    assert before.addresses[0].accepted_rate is None
    await bus.publish_many("agent.fast.task", range(100))
    await bus.publish("system.bus.status", "somebody's own words")
    assert (await bus.status()).total.accepted_rate is None
    now = await bus.status(before)
    assert now.addresses[0].accepted_rate and now.total.accepted_rate
    await bus.publish("system.bus.status", before.to_record())
    published = await bus.status()
    assert published.total.accepted_rate and published.total.accepted_rate > 0
    assert isinstance(published, BusStatus)
