"""The scripts of schedules on a real server: one message a tick, and nothing by halves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from agentbus import Bus, BusSettings, Policy
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.keys import channel_keys, inbox_keys
from agentbus.broker.schedules import KEEP_ENDED_MS, ScheduleStore, Tick
from agentbus.errors import AgentBusError, BrokerOutOfMemory
from agentbus.testing import BrokerForTests

Unique = Callable[[str], str]


class Bench:
    """One address with a schedule whose tick has come."""

    def __init__(self, bus: Bus, address: str) -> None:
        self.bus = bus
        self.address = address
        self.broker = bus.rooms.broker
        self.prefix = bus.settings.prefix
        self.store = ScheduleStore(self.broker, self.prefix, 1_000_000)
        self.due_ms = 0

    async def add(self, in_ms: int = -100) -> None:
        self.due_ms = await self.store.server_ms() + in_ms
        assert await self.store.add(self.address, "s", b"{}", self.due_ms) is None

    async def tick(self, expected_ms: int | None = None, next_ms: int | None = None, **more: Any) -> str:
        tick = Tick(expected_ms or self.due_ms, next_ms, b'{"m":1}', **more)
        return (await self.store.tick(self.address, "s", tick)).answer

    async def stored(self) -> int:
        inbox, channel = inbox_keys(self.prefix, self.address), channel_keys(self.prefix, self.address)
        return sum([await self.broker.execute("XLEN", key) for key in (*inbox.priority_lanes, channel.log)])

    async def score(self) -> int | None:
        found = await self.broker.execute("ZSCORE", inbox_keys(self.prefix, self.address).ticks, "s")
        return None if found is None else int(float(found))


@pytest.fixture(params=["agent.ticking", "channel.ticking"])
async def bench(
    request: pytest.FixtureRequest, broker: BrokerForTests, unique: Unique
) -> AsyncIterator[Bench]:
    async with Bus(broker.url, settings=BusSettings(prefix=unique("ticks"))) as bus:
        yield Bench(bus, request.param)


async def test_of_fifty_schedulers_that_see_a_tick_one_sends_it(bench: Bench) -> None:
    await bench.add()
    answers = await asyncio.gather(*(bench.tick(next_ms=bench.due_ms + 60_000) for _ in range(50)))
    assert Counter(answers) == {"sent": 1, "moved": 49}
    assert (await bench.stored(), await bench.score()) == (1, bench.due_ms + 60_000)
    found = await bench.store.read(bench.address, "s")
    assert found is not None
    assert (found.state.sent, found.state.next_send_at) == (1, bench.due_ms + 60_000)
    assert found.state.last_sent_at is not None and found.state.last_sent_at >= bench.due_ms


async def test_the_servers_clock_decides_whether_it_is_time(bench: Bench) -> None:
    await bench.add(in_ms=60_000)
    assert await bench.tick(next_ms=bench.due_ms + 60_000) == "early"
    assert (await bench.stored(), await bench.score()) == (0, bench.due_ms)


async def test_the_last_tick_ends_a_schedule_which_stays_for_a_day(bench: Bench) -> None:
    await bench.add()
    assert await bench.tick(next_ms=None) == "sent"
    found = await bench.store.read(bench.address, "s")
    assert found is not None and found.state.ended_at is not None and found.state.next_send_at is None
    assert await bench.score() == found.state.ended_at + KEEP_ENDED_MS
    assert await bench.store.pause(bench.address, "s") == "ended"
    assert await bench.store.resume(bench.address, "s", bench.due_ms) == "ended"


async def test_ticks_passed_over_are_counted_and_send_nothing(bench: Bench) -> None:
    await bench.add()
    tick = Tick(bench.due_ms, bench.due_ms + 5, passed=4)
    assert (await bench.store.tick(bench.address, "s", tick)).answer == "passed"
    found = await bench.store.read(bench.address, "s")
    assert found is not None
    assert (found.state.sent, found.state.missed, found.state.last_sent_at) == (0, 4, None)
    assert (await bench.stored(), await bench.score()) == (0, bench.due_ms + 5)


async def test_a_full_address_keeps_the_tick_until_there_is_room(bench: Bench) -> None:
    await bench.bus.declare(bench.address, Policy(limit=1))
    await bench.add()
    second = bench.due_ms + 1
    assert await bench.tick(next_ms=second) == "sent"
    assert await bench.tick(second, second + 60_000) == "full"
    assert (await bench.stored(), await bench.score()) == (1, second)
    policy = inbox_keys(bench.prefix, bench.address).policy
    await bench.broker.execute("HSET", policy, "limit", 2)
    assert await bench.tick(second, second + 60_000) == "sent"


async def test_a_paused_one_does_not_tick_and_goes_on_when_resumed(bench: Bench) -> None:
    await bench.add()
    assert [await bench.store.pause(bench.address, "s") for _ in range(2)] == ["paused", "paused"]
    assert await bench.tick() == "moved"
    assert await bench.store.resume(bench.address, "s", bench.due_ms + 7) == "resumed"
    assert await bench.store.resume(bench.address, "s", bench.due_ms + 9) == "running"
    assert await bench.score() == bench.due_ms + 7
    assert await bench.tick(bench.due_ms + 7, bench.due_ms + 60_000) == "sent"


async def test_a_cancelled_one_is_gone_whatever_a_scheduler_still_thinks(bench: Bench) -> None:
    await bench.add()
    assert not await bench.store.cancel(bench.address, "s", bench.due_ms + 1), "it stands elsewhere"
    assert await bench.store.cancel(bench.address, "s", bench.due_ms)
    assert await bench.tick() == "moved"
    assert await bench.stored() == 0
    assert await bench.store.pause(bench.address, "s") == "unknown"
    assert await bench.store.resume(bench.address, "s", 1) == "unknown"
    assert not await bench.store.cancel(bench.address, "s")


async def test_a_message_of_a_cancelled_schedule_is_not_sent_for_another_of_its_name(bench: Bench) -> None:
    await bench.add()
    late = Tick(bench.due_ms, None, b'{"m":1}', definition=b"{}")
    await bench.store.cancel(bench.address, "s")
    await bench.store.add(bench.address, "s", b'{"another":1}', bench.due_ms)
    assert await bench.store.tick(bench.address, "s", late) == ("moved", str(bench.due_ms))
    assert (await bench.stored(), await bench.score()) == (0, bench.due_ms)
    own = replace(late, definition=b'{"another":1}')
    assert (await bench.store.tick(bench.address, "s", own)).answer == "sent"


async def test_what_is_due_comes_with_its_state_and_with_the_next_one_after_it(bench: Bench) -> None:
    now = await bench.store.server_ms()
    for number, tick in enumerate((now - 300, now - 200, now - 100, now + 60_000)):
        await bench.store.add(bench.address, f"s{number}", b'{"number": %d}' % number, tick)
    due = await bench.store.due(bench.address, 2)
    assert [stored.id for stored in due.schedules] == ["s0", "s1"] and due.next_ms == now - 100
    due = await bench.store.due(bench.address, 10)
    assert [stored.id for stored in due.schedules] == ["s0", "s1", "s2"] and due.next_ms == now + 60_000
    assert due.schedules[2].definition == b'{"number": 2}' and due.schedules[2].tick_ms == now - 100


async def test_a_key_of_the_wrong_type_sends_nothing_and_advances_nothing(bench: Bench) -> None:
    inbox, channel = inbox_keys(bench.prefix, bench.address), channel_keys(bench.prefix, bench.address)
    await bench.add()
    target = inbox.priority_lanes[2] if bench.address.startswith("agent") else channel.log
    for key in (target, inbox.ledger, inbox.policy):
        await bench.broker.execute("SET", key, "somebody's")
        try:
            answer = await bench.tick(next_ms=bench.due_ms + 60_000)
            assert answer == "refused"
        except AgentBusError as error:
            assert "WRONGTYPE" in str(error)
        assert await bench.score() == bench.due_ms
        await bench.broker.execute("DEL", key)
    assert await bench.tick(next_ms=bench.due_ms + 60_000) == "sent"
    assert await bench.stored() == 1


async def test_a_tick_of_an_inbox_is_in_its_lane_its_index_and_its_ledger(
    broker: BrokerForTests, unique: Unique
) -> None:
    async with Bus(broker.url, settings=BusSettings(prefix=unique("ticks"))) as bus:
        bench = Bench(bus, "agent.ticking")
        await bench.add()
        assert await bench.tick(lane=4, ttl_ms=60_000) == "sent"
        keys = inbox_keys(bench.prefix, bench.address)
        ((_, fields),) = await bench.broker.execute("XRANGE", keys.priority_lanes[4], "-", "+")
        assert fields[::2] == [b"message", b"state"] and b'"expires"' in fields[3]
        assert await bench.broker.execute("ZRANGE", keys.lanes, 0, -1) == [b"background"]
        view = await bus.inspect("agent.ticking")
        assert view.ledger.closes and view.ledger.accepted == 1 and view.ledger.hand_made == 0


async def test_a_server_without_memory_keeps_the_tick_and_lets_people_cancel(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    broker = Broker(ConnectionSettings(server.url))
    try:
        store = ScheduleStore(broker, "oom", 1_000)
        due_ms = await store.server_ms() - 100
        await store.add("agent.x", "s", b"{}", due_ms)
        await broker.execute("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(BrokerOutOfMemory):
            await store.tick("agent.x", "s", Tick(due_ms, due_ms + 1, b"{}"))
        assert await store.first_ticks(["agent.x"]) == [("agent.x", due_ms)]
        assert await store.pause("agent.x", "s") == "paused"
        assert await store.cancel("agent.x", "s")
    finally:
        await broker.close()
