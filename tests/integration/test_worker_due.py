"""Role due: what is delayed or retried reaches its lane in time, whoever serves the address, or nobody."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus import Agent, Bus, BusSettings, Retry
from agentbus.broker import keys
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.wake import Wake
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays
from tests.service import working
from workers.due import Due

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="tester", settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


async def _waiting(look: Look, count: int) -> bool:
    return await look.waiting() == count


async def _announced(bus: Bus, address: str) -> int | None:
    (score,) = await Wake(bus.rooms.broker, keys.wake(bus.settings.prefix)).scores([address])
    return score


# --- announcing ---


async def test_a_delayed_message_is_announced_before_its_caller_hears_of_it(bus: Bus) -> None:
    await bus.publish("agent.a.task", 1, delay="1h")
    (_, score) = await bus.rooms.broker.execute("ZRANGE", Look(bus, "a").keys.due, 0, -1, "WITHSCORES")
    assert await _announced(bus, "agent.a") == int(score)


async def test_of_a_batch_the_earliest_counts(bus: Bus) -> None:
    await asyncio.gather(
        bus.publish("agent.a.task", 1, delay="2h"),
        bus.publish("agent.a.task", 2),
        bus.publish("agent.a.task", 3, delay="1h"),
        bus.publish("agent.a.task", 4, at="2100-01-01T00:00:00Z"),
    )
    in_an_hour = (time.time() + 3600) * 1000
    assert abs((await _announced(bus, "agent.a") or 0) - in_an_hour) < 60_000
    await bus.publish("agent.b.task", 1, at="2100-01-01T00:00:00Z")
    assert await _announced(bus, "agent.b") == 4_102_444_800_000


async def test_what_is_not_delayed_is_not_announced(bus: Bus) -> None:
    await bus.publish("agent.a.task", 1, ttl="1h", key="k")
    await bus.publish("agent.a.task", 1, delay=0)
    assert await _announced(bus, "agent.a") is None


async def test_a_retry_is_announced(bus: Bus) -> None:
    agent = Agent("a")

    @agent.on("task", retry=Retry(max_retries=1, retry_delay="1h"))
    async def handle(body: int) -> None:
        raise ValueError("not yet")

    async with bus.serving(agent):
        await bus.publish("agent.a.task", 1)

        async def announced() -> bool:
            return await _announced(bus, "agent.a") is not None

        await eventually(announced)
    (_, score) = await bus.rooms.broker.execute("ZRANGE", Look(bus, "a").keys.due, 0, -1, "WITHSCORES")
    assert await _announced(bus, "agent.a") == int(score)


async def test_a_failed_announcement_fails_no_publish_and_is_seen(bus: Bus) -> None:
    await bus.rooms.broker.execute("SET", keys.wake(bus.settings.prefix), "of another type")
    stored = await bus.publish("agent.a.task", 1, delay="1h")
    assert stored.address == "agent.a"
    assert bus.events.counts["unannounced"] == 1


# --- coming due ---


async def test_what_comes_due_at_an_address_nobody_ever_served_waits_there_in_time(bus: Bus) -> None:
    look = Look(bus, "nobody")
    async with working(bus, Due) as roles:
        await bus.publish("agent.nobody.task", 1, delay="300ms", priority="high")
        await eventually(lambda: _waiting(look, 1))
        assert await look.lengths() == {**dict.fromkeys(await look.lengths(), 0), "high": 1}
        assert roles["due"].report.lag_ms is not None

        async def forgotten() -> bool:
            return await _announced(bus, "agent.nobody") is None

        await eventually(forgotten)
    seen = []
    agent = Agent("nobody")

    @agent.on("task")
    async def handle(body: int) -> None:
        seen.append(body)

    async with bus.serving(agent):
        await eventually(lambda: seen == [1])
    await look.check_balance()


async def test_a_message_is_not_handed_out_before_its_time(bus: Bus) -> None:
    async with working(bus, Due):
        await bus.publish("agent.a.task", 1, delay="1h")
        await bus.publish("agent.a.task", 2, delay="100ms")
        await eventually(lambda: _waiting(Look(bus, "a"), 1))
        await stays(lambda: _waiting(Look(bus, "a"), 1), 0.3)
        assert await Look(bus, "a").due() == 1


async def test_hundreds_of_addresses_are_in_time(bus: Bus) -> None:
    """Loose bounds: many tests may share this machine."""
    looks = [Look(bus, f"a{n}") for n in range(500)]
    call = bus.rooms.broker.pipeline
    async with working(bus, Due):
        await asyncio.gather(
            *[bus.publish(f"agent.a{n}.task", n, delay=2 + (n % 10) / 10) for n in range(500)]
        )
        due = [
            int(pair[1]) for pair in await call([("ZRANGE", x.keys.due, 0, 0, "WITHSCORES") for x in looks])
        ]

        async def all_there() -> bool:
            return await call([("XLEN", look.keys.sources[3]) for look in looks]) == [1] * 500

        await eventually(all_there, 20, 0.1)
    entries = await call([("XRANGE", look.keys.sources[3], "-", "+") for look in looks])
    late = [int(entry[0][0].split(b"-")[0]) - at for entry, at in zip(entries, due, strict=True)]
    assert min(late) >= 0
    assert sorted(late)[250] < 2_000


async def test_a_long_backlog_does_not_delay_the_messages_of_others(bus: Bus) -> None:
    await bus.publish_many("agent.long.task", range(3_000), delay="200ms")
    await bus.publish("agent.short.task", 1, delay="400ms")
    async with working(bus, Due):
        await eventually(lambda: _waiting(Look(bus, "short"), 1), 20)
        await eventually(lambda: _waiting(Look(bus, "long"), 3_000), 20)
    await Look(bus, "long").check_balance()


async def test_one_spoilt_address_does_not_stop_the_others(bus: Bus) -> None:
    await bus.publish("agent.spoilt.task", 1, delay="50ms")
    await bus.rooms.broker.execute("SET", Look(bus, "spoilt").keys.due, "of another type")
    async with working(bus, Due) as roles:
        await bus.publish("agent.good.task", 1, delay="50ms")
        await eventually(lambda: _waiting(Look(bus, "good"), 1))
        await eventually(lambda: "due" in roles["due"].report.last_error)


async def test_one_lane_that_refuses_entries_does_not_stop_the_other_lanes(bus: Bus) -> None:
    look = Look(bus, "a")
    await bus.rooms.broker.execute("SET", look.keys.sources[2], "of another type")
    for priority in ("critical", "high", "low"):
        await bus.publish("agent.a.task", 1, delay="50ms", priority=priority)
    async with working(bus, Due):

        async def moved() -> bool:
            lengths = await bus.rooms.broker.pipeline([("XLEN", look.keys.sources[n]) for n in (1, 4)])
            return lengths == [1, 1]

        await eventually(moved)
        assert await look.due() == 1
        assert (await look.ledger())["accepted"] == 3
        score = await _announced(bus, "agent.a")
        assert score is None or score > time.time() * 1000 - 5_000


async def test_an_expired_one_ends_with_its_body_and_the_trace_finds_its_end(bus: Bus) -> None:
    look = Look(bus, "a")
    stored = await bus.publish("agent.a.task", {"x": 1}, delay="100ms", ttl="101ms", key="k")
    await asyncio.sleep(0.12)
    async with working(bus, Due):

        async def expired() -> bool:
            return await look.count("expired") == 1

        await eventually(expired)
    trace = await bus.trace(stored.message_id, "agent.a")
    (place,) = trace.places
    assert (place.status, place.stream, place.outcome) == ("ended", "ended", "expired")
    assert trace.message is not None
    assert trace.message.content == {"x": 1}
    assert [(step.outcome, step.stream, step.entry_id) for step in trace.steps] == [
        ("expired", "ended", place.entry_id)
    ]
    await look.check_balance()
    assert not (await bus.publish("agent.a.task", {"x": 1}, key="k")).duplicate


async def test_an_expired_request_is_still_handed_out_so_that_its_asker_is_told(bus: Bus) -> None:
    look = Look(bus, "a")
    text = json.dumps({"message_id": "m", "reply_to": "reply.x.1"}, separators=(",", ":"))
    await bus.rooms.broker.execute(
        "HSET", look.keys.delayed, "m", text, "m:state", json.dumps({"lane": "normal", "expires": 1})
    )
    await bus.rooms.broker.execute("ZADD", look.keys.due, 1, "m")
    await bus.rooms.broker.execute("ZADD", keys.wake(bus.settings.prefix), 1, "agent.a")
    async with working(bus, Due):
        await eventually(lambda: _waiting(look, 1))
    assert await look.count("expired") == 0


# --- what hands and outages did ---


async def test_the_slow_sweep_finds_what_was_not_announced(bus: Bus) -> None:
    async with working(bus, Due, sweep=0.3):
        await bus.publish("agent.a.task", 1, delay="1s")
        await bus.rooms.broker.execute("DEL", keys.wake(bus.settings.prefix))
        await eventually(lambda: _waiting(Look(bus, "a"), 1))


async def test_the_sweep_moves_back_a_look_that_a_clock_put_into_the_future(bus: Bus) -> None:
    """A claim made before the server's clock went back an hour would stand for an hour."""
    await bus.publish("agent.a.task", 1, delay="100ms")
    key = keys.wake(bus.settings.prefix)
    await bus.rooms.broker.execute("ZADD", key, time.time() * 1000 + 3_600_000, "agent.a")
    async with working(bus, Due, sweep=0.3):
        await eventually(lambda: _waiting(Look(bus, "a"), 1))


async def test_an_index_without_a_body_is_counted_once_and_forgotten(bus: Bus) -> None:
    look = Look(bus, "a")
    stored = await bus.publish("agent.a.task", 1, delay="100ms")
    await bus.rooms.broker.execute("HDEL", look.keys.delayed, stored.message_id)
    async with working(bus, Due):

        async def vanished() -> bool:
            return await look.count("vanished") == 1

        await eventually(vanished)
        assert await look.due() == 0
    await look.check_balance()


async def test_a_body_without_an_index_is_reported_once_and_left_alone(bus: Bus) -> None:
    look = Look(bus, "a")
    await bus.publish("agent.a.task", 1, delay="1h")
    await bus.rooms.broker.execute("DEL", look.keys.due)
    async with working(bus, Due, sweep=0.1) as roles:
        await eventually(lambda: bus.events.counts["orphaned"] == 1)
        steps = roles["due"].report.steps
        await eventually(lambda: roles["due"].report.steps > steps + 10)
        assert bus.events.counts["orphaned"] == 1
        await bus.publish("agent.a.task", 2, delay="1h")
        await bus.rooms.broker.execute("DEL", look.keys.due)
        await eventually(lambda: bus.events.counts["orphaned"] == 2)
    assert await bus.rooms.broker.execute("HLEN", look.keys.delayed) == 4


async def test_an_address_of_another_kind_is_taken_off_the_set(bus: Bus) -> None:
    await bus.rooms.broker.execute("ZADD", keys.wake(bus.settings.prefix), 1, "channel.design")
    async with working(bus, Due):

        async def gone() -> bool:
            return await _announced(bus, "channel.design") is None

        await eventually(gone)


async def test_the_role_goes_on_after_everything_was_deleted(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="tester") as bus, working(bus, Due, sweep=0.3):
        await bus.publish("agent.a.task", 1, delay="1h")
        await bus.rooms.broker.execute("FLUSHALL")
        await bus.publish("agent.a.task", 2, delay="100ms")
        await eventually(lambda: _waiting(Look(bus, "a"), 1))
        await bus.rooms.broker.execute("DEL", *Look(bus, "a").keys.sources)
        await bus.publish("agent.a.task", 3, delay="100ms")
        await eventually(lambda: _waiting(Look(bus, "a"), 1))


async def test_a_server_that_stands_still_delays_and_loses_nothing(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="tester", settings=BusSettings(command_timeout=0.5)) as bus:
        async with working(bus, Due) as roles:
            await bus.publish("agent.a.task", 1, delay="200ms")
            server.pause()
            try:
                await eventually(lambda: roles["due"].report.last_error)
            finally:
                server.resume()
            await eventually(lambda: _waiting(Look(bus, "a"), 1), 15)
        await Look(bus, "a").check_balance()
