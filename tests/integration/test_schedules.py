"""Recurring messages from the side of a program: added, shown, paused, resumed, cancelled, refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentbus import BrokerUnavailable, Bus, BusSettings, InvalidTopic, InvalidValue, NoSuchSchedule, Topic
from agentbus.broker import keys
from agentbus.schedules import schedules
from agentbus.testing import BrokerForTests
from tests.proxy import Proxy

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("sched"))) as opened:
        yield opened


async def test_a_schedule_is_stored_with_all_that_was_said_and_found_again(bus: Bus) -> None:
    added = await bus.schedules.add(
        "agent.reviewer.sweep", {"n": "{{tick_number}}"}, "30 2 * * *", timezone="Europe/Berlin",
        expires_at="2100-01-01T00:00:00Z", misfire="all:5", name="nightly", priority="low", ttl="1h",
        metadata={"team": "core"},
    )  # fmt: skip
    assert added.id == "agent.reviewer:nightly" and added.address == "agent.reviewer"
    assert (added.owner, added.state, added.sent, added.misfire) == ("planner", "active", 0, "all:5")
    assert (added.body, added.metadata, added.priority) == ({"n": "{{tick_number}}"}, {"team": "core"}, "low")
    assert added.next_send_at is not None and added.next_send_at > datetime.now(UTC) - timedelta(minutes=1)
    assert await bus.schedules.get(added.id) == added
    assert await bus.schedules.list("reviewer") == (added,) == await bus.schedules.list()
    assert await bus.schedules.list("agent.somebody-else") == ()


async def test_it_can_be_read_with_redis_cli(bus: Bus) -> None:
    added = await bus.schedules.add("channel.ops.note", "hello", "interval:60", name="hello")
    found = keys.channel_keys(bus.settings.prefix, "channel.ops")
    broker = bus.rooms.broker
    definition = json.loads(await broker.execute("HGET", found.schedules, "hello"))
    assert definition["schedule"] == "interval:60" and definition["owner"] == "planner"
    assert definition["message"]["body"] == {"content": "hello"}
    state = json.loads(await broker.execute("HGET", found.schedules, "hello:state"))
    assert added.next_send_at is not None
    next_ms = round(added.next_send_at.timestamp() * 1000)
    assert state == {"enabled": True, "sent": 0, "missed": 0, "next_send_at": next_ms}
    assert await broker.execute("ZRANGE", found.ticks, 0, -1, "WITHSCORES") == [b"hello", b"%d" % next_ms]
    assert float(await broker.execute("ZSCORE", keys.ticking(bus.settings.prefix), "channel.ops")) == next_ms
    assert await broker.execute("SISMEMBER", keys.addresses(bus.settings.prefix), "channel.ops") == 1


async def test_schedules_of_many_addresses_are_listed_in_the_order_of_their_ids(bus: Bus) -> None:
    ids = [(await bus.schedules.add(f"agent.a{n % 7}.task", n, "interval:60")).id for n in range(30)]
    assert [schedule.id for schedule in await bus.schedules.list()] == sorted(ids)
    assert len(await bus.schedules.list("a3")) == 4


async def test_the_same_under_the_same_name_is_added_once_and_another_is_refused(bus: Bus) -> None:
    first = await bus.schedules.add("agent.x.task", 1, "interval:60", name="mine")
    assert await bus.schedules.add("agent.x.task", 1, "interval:60", name="mine") == first
    with pytest.raises(
        InvalidValue, match=r"name: 'mine' is another schedule of agent\.x; cancel agent\.x:mine"
    ):
        await bus.schedules.add("agent.x.task", 2, "interval:60", name="mine")
    assert await bus.schedules.list() == (first,)


async def test_one_without_a_name_is_added_once_when_a_reply_is_lost(
    broker: BrokerForTests, unique: Unique
) -> None:
    settings = BusSettings(prefix=unique("sched"))
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent="planner", settings=settings) as bus:
        proxy.lose_reply = lambda data: proxy.cuts < 2 and b":schedules" in data
        added = await bus.schedules.add("agent.x.task", 1, "interval:60")
        assert proxy.cuts == 2
        assert await bus.schedules.list() == (added,)


async def test_what_may_be_stored_says_under_which_name_it_can_be_added_again(
    broker: BrokerForTests, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_PATIENCE", 0.1)
    settings = BusSettings(prefix=unique("sched"))
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent="planner", settings=settings) as bus:
        proxy.lose_reply = lambda data: b":schedules" in data
        with pytest.raises(BrokerUnavailable, match=r"with name='[0-9a-f]{8}' makes no second one") as caught:
            await bus.schedules.add("agent.x.task", 1, "interval:60")
        assert caught.value.uncertain
        proxy.lose_reply = lambda data: False
        name = str(caught.value).split("name='")[1][:8]
        added = await bus.schedules.add("agent.x.task", 1, "interval:60", name=name)
        assert await bus.schedules.list() == (added,)


async def test_a_typed_topic_checks_the_body(bus: Bus) -> None:
    with pytest.raises(InvalidValue, match="body"):
        await bus.schedules.add(Topic("agent.x.task", int), "text", "interval:60")


async def test_pausing_and_resuming(bus: Bus) -> None:
    added = await bus.schedules.add("agent.x.task", 1, "interval:60")
    paused = await bus.schedules.pause(added.id)
    assert (paused.state, paused.enabled, paused.next_send_at) == ("paused", False, None)
    assert await bus.schedules.pause(added.id) == paused
    ticks = await bus.schedules.next_ticks(added.id, 2)
    resumed = await bus.schedules.resume(added.id)
    assert resumed == added, "an interval still counts from its creation"
    assert await bus.schedules.resume(added.id) == resumed
    assert ticks == (added.next_send_at, ticks[0] + timedelta(minutes=1))


async def test_what_has_no_tick_left_cannot_be_resumed(bus: Bus) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=400)
    added = await bus.schedules.add("agent.x.task", 1, f"at:{soon.isoformat()}")
    await bus.schedules.pause(added.id)
    while await bus.schedules.next_ticks(added.id):
        pass
    with pytest.raises(InvalidValue, match="has no tick left; cancel it, and add a new one"):
        await bus.schedules.resume(added.id)
    assert (await bus.schedules.get(added.id)).state == "paused"


async def test_a_cancelled_one_is_gone(bus: Bus) -> None:
    added = await bus.schedules.add("agent.x.task", 1, "interval:60")
    await bus.schedules.cancel(added.id)
    assert await bus.schedules.list() == ()
    for verb in (bus.schedules.get, bus.schedules.pause, bus.schedules.resume, bus.schedules.cancel):
        with pytest.raises(NoSuchSchedule, match=f"there is no schedule {added.id}"):
            await verb(added.id)
    with pytest.raises(NoSuchSchedule):
        await bus.schedules.next_ticks(added.id)


async def test_what_somebody_wrote_by_hand_hides_no_others(bus: Bus) -> None:
    added = await bus.schedules.add("agent.x.task", 1, "interval:60")
    found = keys.inbox_keys(bus.settings.prefix, "agent.x").schedules
    await bus.rooms.broker.execute("HSET", found, "by-hand", "nonsense", "half:state", "{}")
    assert await bus.schedules.list() == (added,)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"schedule": "*/5 * * * * *"}, "schedule", "has 6 fields; a cron expression has five"),
        ({"schedule": "0 0 30 2 *"}, "schedule", "never happens"),
        ({"schedule": "interval:0"}, "schedule", "an interval is a second or more"),
        ({"schedule": "at:2020-01-01T00:00:00Z"}, "schedule", "is in the past; it is"),
        ({"timezone": "Europe/Berln"}, "timezone", "did you mean Europe/Berlin"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "is in the past; it is"),
        ({"expires_at": "soon"}, "expires_at", "must be a time such as"),
        ({"misfire": "twice"}, "misfire", "is not skip, once or all:<most>"),
        ({"grace": "long"}, "grace", "must be a duration"),
        ({"priority": "urgent"}, "priority", "is not one of"),
        ({"name": "Not A Name"}, "name", "is not a name"),
        ({"delay": "5s"}, "delay", "is not an option of a schedule; those are"),
        ({"body": float("nan")}, "body", "cannot be written as JSON"),
        ({"topic": "agent.x"}, "topic", "needs three parts"),
        ({"topic": "system.bus.status"}, "topic", "is the bus's own"),
    ],
)
async def test_bad_input_names_the_field_and_changes_nothing(
    bus: Bus, change: dict[str, Any], field: str, problem: str
) -> None:
    given: dict[str, Any] = {"topic": "agent.x.task", "body": 1, "schedule": "interval:60", **change}
    with pytest.raises(InvalidValue) as refused:
        await bus.schedules.add(**given)
    assert refused.value.field == field and problem in str(refused.value)
    assert isinstance(refused.value, InvalidTopic) is (field == "topic")
    assert await bus.rooms.broker.execute("KEYS", f"{bus.settings.prefix}:*") == []
