"""The read-only views: an inbox with its ledger, the trace of a message, a tail, and the one repair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from agentbus import Agent, AgentSettings, Bus, Delivery, Reject, Retry, WrongKeyType
from agentbus.broker.inbox import Inbox
from agentbus.broker.inspection.inbox_view import inspect_inbox, totals_of
from agentbus.broker.inspection.look import LARGEST, take_look
from agentbus.broker.inspection.tailing import Tail, TailedEntry
from agentbus.broker.keys import InboxKeys, inbox_keys
from agentbus.broker.repair import repair_lanes
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually

LARGEST_ID = f"{LARGEST[0]}-{LARGEST[1]}"


@pytest_asyncio.fixture
async def opened(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="tester") as bus:
        yield bus


def keys_of(bus: Bus, name: str) -> InboxKeys:
    return inbox_keys(bus.settings.prefix, f"agent.{name}")


async def command(bus: Bus, *arguments: Any) -> Any:
    return await bus.rooms.broker.execute(*arguments)


# --- one inbox ---


async def test_the_ledger_closes_over_every_way_a_message_can_go(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("ledger")
    agent = Agent(name)

    @agent.on("task")
    async def task(body: str) -> None:
        if body == "fail":
            raise RuntimeError("again later")
        if body == "reject":
            raise Reject("never")

    for body in ("work", "work", "fail", "reject"):
        await opened.publish(f"agent.{name}.task", body, retry=Retry(retry_delay="1h"))
    await opened.publish(f"agent.{name}.task", "later", delay="1h")
    await opened.publish(f"agent.{name}.task", "short", ttl="1ms")
    await command(opened, "XADD", keys_of(opened, name).sources[3], "*", "message", "made by hand")
    async with opened.serving(agent):
        await eventually(lambda: nothing_moves(opened, name))
    view = await opened.inspect(name)
    assert view.ledger.ended == {
        "processed": 2, "expired": 1, "cancelled": 0, "discarded": 0, "resolved": 0, "moved": 0,
    }  # fmt: skip
    assert (view.ledger.accepted, view.ledger.hand_made, view.dead, view.due) == (6, 1, 2, 2)
    assert view.ledger.moves["retried"] == 1
    assert view.ledger.closes and view.steady


async def nothing_moves(bus: Bus, name: str) -> bool:
    view = await bus.inspect(name)
    return view.waiting == view.in_flight == 0


async def test_the_totals_of_a_lane_that_the_server_has_lost_count_of_come_from_the_ledger(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("lost")
    keys = keys_of(opened, name)
    await opened.publish_many(f"agent.{name}.task", range(100))
    lane = keys.sources[3]
    await command(opened, "XGROUP", "CREATE", lane, "inbox", "0")
    reply = await command(opened, "XREADGROUP", "GROUP", "inbox", "c", "COUNT", 2, "STREAMS", lane, ">")
    handled, gone = (entry[0] for entry in reply[0][1])
    await command(opened, "XACK", lane, "inbox", handled, gone)
    await command(opened, "XDEL", lane, gone)
    await command(opened, "HINCRBY", keys.ledger, "processed", 2)
    assert (await take_look(opened.rooms.broker, keys)).streams[3].lag is None
    totals = await totals_of(opened.rooms.broker, opened.settings.prefix, f"agent.{name}")
    assert totals.waiting == (await opened.inspect(name)).waiting == 98


async def test_a_waiting_entry_that_somebody_deletes_shows_as_unaccounted_for(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("robbed")
    stored = await opened.publish(f"agent.{name}.task", 1)
    await opened.publish(f"agent.{name}.task", 2)
    await command(opened, "XDEL", keys_of(opened, name).sources[3], stored.entry_id)
    view = await opened.inspect(f"agent.{name}")
    assert view.ledger.difference == 1
    assert not view.ledger.closes
    assert view.waiting == 1


async def test_waiting_messages_are_counted_one_by_one_in_every_lane(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("long")
    counts = {"critical": 3, "normal": 1_234, "background": 40}
    for priority, count in counts.items():
        await opened.publish_many(f"agent.{name}.task", range(count), priority=priority)  # type: ignore[arg-type]
    # A deleted waiting entry makes the server lose count (its lag becomes nil): only a walk is right.
    await command(opened, "XDEL", keys_of(opened, name).sources[3], await middle_of(opened, name))
    view = await opened.inspect(name)
    waiting = {lane.name: lane.waiting for lane in view.lanes if lane.waiting}
    assert waiting == {**counts, "normal": 1_233}
    assert view.steady
    assert all((lane.oldest_ms is None) == (lane.waiting == 0) for lane in view.lanes)


async def middle_of(bus: Bus, name: str) -> bytes:
    entries = await command(bus, "XRANGE", keys_of(bus, name).sources[3], "-", "+", "COUNT", 600)
    entry_id: bytes = entries[-1][0]
    return entry_id


async def test_what_is_in_flight_is_shown_by_consumer_with_age_and_a_beat_that_moves(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("busy")
    await opened.publish(f"agent.{name}.task", 1)
    async with opened.pulling(name) as puller:
        delivery = await puller.next(5)
        assert delivery is not None
        (first,) = (await opened.inspect(name)).consumers
        assert (first.in_flight, first.phase) == (1, "serving")

        async def later() -> bool:
            (consumer,) = (await opened.inspect(name)).consumers
            aged = (consumer.longest_held_ms or 0) > (first.longest_held_ms or 0)
            return aged and (consumer.beat or 0) > (first.beat or 0)

        await eventually(later)
        await delivery.ack()


async def test_an_address_that_nobody_used_does_not_exist(opened: Bus, unique: Callable[[str], str]) -> None:
    view = await opened.inspect(unique("nobody"))
    assert not view.exists
    assert view.ledger.closes
    assert len(view.lanes) == 6


async def test_a_key_of_another_type_is_named(opened: Bus, unique: Callable[[str], str]) -> None:
    name = unique("foreign")
    await command(opened, "SET", keys_of(opened, name).sources[2], "mine")
    with pytest.raises(WrongKeyType, match="lane:high is a string, not a stream"):
        await opened.inspect(name)


async def test_the_count_is_right_while_messages_come_and_go(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    """What waits in few entries is read together with everything else, so it closes at any moment."""
    name = unique("moving")
    agent = Agent(name, concurrency=4)

    @agent.on("task")
    async def task(body: int) -> None:
        await asyncio.sleep(0.002)

    async def send() -> None:
        for number in range(300):
            await opened.publish(f"agent.{name}.task", number)

    async with opened.serving(agent):
        sending = asyncio.create_task(send())
        views = []
        while not sending.done():
            views.append(await inspect_inbox(opened.rooms.broker, opened.settings.prefix, f"agent.{name}"))
        await sending
    assert len(views) > 5
    assert all(view.ledger.closes for view in views if view.steady)
    assert any(view.steady and view.in_flight for view in views)


# --- trace ---


async def test_a_trace_follows_a_message_through_retry_hand_back_and_end(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("traced")
    stored = await opened.publish(f"agent.{name}.task", 1, retry=Retry(retry_delay="1ms"))

    async def place() -> str:
        return (await opened.trace(stored.message_id, name)).places[0].status

    assert await place() == "waiting"
    async with opened.pulling(name) as puller:
        await settle(await puller.next(5), "retry")
        delivery = await puller.next(5)
        assert await place() == "in_flight"
        await settle(delivery, "release")
        await settle(await puller.next(5), "ack")
        await eventually(lambda: ended(opened, stored.message_id, name))
    trace = await opened.trace(stored.message_id)
    assert [step.outcome for step in trace.steps] == ["retried", "released", "processed"]
    (end,) = trace.places
    assert (end.status, end.outcome, end.attempts, end.stream) == ("ended", "processed", 2, "returned")
    assert end.consumer and end.consumer.startswith(f"{name}.")
    assert trace.message is not None and trace.message.content == 1


async def settle(delivery: Delivery | None, how: str) -> None:
    assert delivery is not None
    await getattr(delivery, how)()


async def ended(bus: Bus, message_id: str, name: str) -> bool:
    places = (await bus.trace(message_id, name)).places
    return [place.status for place in places] == ["ended"]


async def test_a_trace_finds_due_and_dead_messages_with_the_reason(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("later")
    due = await opened.publish(f"agent.{name}.task", 1, delay="1h", priority="low")
    dead = await opened.publish(f"agent.{name}.task", 2)
    async with opened.pulling(name) as puller:
        delivery = await puller.next(5)
        assert delivery is not None
        await delivery.reject("wrong repository")
    (place,) = (await opened.trace(due.message_id, name)).places
    assert (place.status, place.detail) == ("due", "goes to low")
    assert place.at_ms is not None and place.at_ms > (await opened.inspect(name)).server_ms
    trace = await opened.trace(dead.message_id, name)
    (letter,) = trace.places
    assert (letter.status, letter.outcome, letter.detail) == ("dead", "rejected", "wrong repository")
    assert [step.outcome for step in trace.steps] == ["dead"]


async def test_a_trace_names_the_owner_that_died(opened: Bus, unique: Callable[[str], str]) -> None:
    name = unique("orphan")
    stored = await opened.publish(f"agent.{name}.task", 1)
    inbox_agent = Agent(name, concurrency=1, settings=AgentSettings(lease=0.5))
    keys = keys_of(opened, name)
    async with opened.pulling(name, agent=inbox_agent) as puller:
        delivery = await puller.next(5)
        assert delivery is not None
        (holder,) = (await opened.inspect(name)).consumers
        # What a fence does: the name is no longer alive, and what it holds is free to be taken.
        await command(opened, "HDEL", keys.alive, holder.name)
        again = await puller.next(30)
        assert again is not None
        await again.ack()
    trace = await opened.trace(stored.message_id, name)
    assert ("reclaimed", holder.name) in [(step.outcome, step.consumer) for step in trace.steps]


async def test_a_trace_takes_no_message_for_another_that_it_caused(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("cause")
    cause = await opened.publish(f"agent.{name}.task", "cause")
    await opened.publish(f"agent.{name}.task", "effect", causation_id=cause.message_id)
    trace = await opened.trace(cause.message_id, name)
    assert [place.entry_id for place in trace.places] == [cause.entry_id]


async def test_a_message_that_never_was_is_not_found(opened: Bus, unique: Callable[[str], str]) -> None:
    name = unique("empty")
    await opened.publish(f"agent.{name}.task", 1)
    trace = await opened.trace("01980000-0000-7000-8000-000000000000", name)
    assert not trace.found
    assert trace.searched == 1


# --- tail ---


async def test_a_tail_sees_everything_and_takes_nothing(opened: Bus, unique: Callable[[str], str]) -> None:
    name = unique("watched")
    for body, priority in (("old", "low"), ("older", "high")):
        await opened.publish(f"agent.{name}.task", body, priority=priority)  # type: ignore[arg-type]
    view = Tail(opened.rooms.broker, opened.settings.prefix, f"agent.{name}")
    last = await view.last(10)
    # Entries of one millisecond in two streams have no order.
    assert {(entry.stream, entry.message and entry.message.content) for entry in last} == {
        ("low", "old"), ("high", "older"),
    }  # fmt: skip
    following = asyncio.create_task(take(view, 2))
    await opened.publish(f"agent.{name}.task", "new")
    await command(opened, "XADD", keys_of(opened, name).sources[3], "*", "stray", "field")
    arrived = await asyncio.wait_for(following, 10)
    assert [entry.message and entry.message.content for entry in arrived] == ["new", None]
    assert arrived[1].fields == {"stray": "field"}
    await view.close()
    assert (await opened.inspect(name)).waiting == 4


async def take(view: Tail, count: int) -> list[TailedEntry]:
    taken = []
    async for entry in view.follow():
        taken.append(entry)
        if len(taken) == count:
            break
    return taken


# --- repair ---


async def test_a_lane_that_takes_no_more_messages_is_repaired_with_what_waits_in_it(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("bricked")
    agent = Agent(name)
    handled: list[Any] = []
    agent.on("task")(handled.append)
    lane = keys_of(opened, name).sources[3]
    async with opened.serving(agent):
        await opened.publish(f"agent.{name}.task", 0)
        await eventually(lambda: nothing_moves(opened, name))
    for number in range(1, 25):
        await opened.publish(f"agent.{name}.task", number)
    await command(opened, "XADD", lane, LARGEST_ID, "message", "not one of ours")
    before = await take_look(opened.rooms.broker, keys_of(opened, name))
    assert before.streams[3].bricked
    repairs = await repair_lanes(opened.rooms.broker, opened.settings.prefix, f"agent.{name}")
    assert [(r.stream, r.result, r.entries, r.dropped) for r in repairs if r.result != "healthy"] == [
        ("normal", "repaired", 25, 1)
    ]
    view = await opened.inspect(name)
    assert view.ledger.closes and view.waiting == 25
    look = await take_look(opened.rooms.broker, keys_of(opened, name))
    assert look.streams[3].lag == 25
    await opened.publish(f"agent.{name}.task", 25)
    async with opened.serving(agent):
        await eventually(lambda: nothing_moves(opened, name))
    assert sorted(handled) == list(range(26))
    view = await opened.inspect(name)
    assert view.ledger.closes and view.dead == 1


async def test_a_lane_with_something_in_flight_is_not_repaired(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("held")
    lane = keys_of(opened, name).sources[3]
    await opened.publish(f"agent.{name}.task", 1)
    async with opened.pulling(name) as puller:
        delivery = await puller.next(5)
        assert delivery is not None
        await command(opened, "XADD", lane, LARGEST_ID, "message", "not one of ours")
        repairs = await repair_lanes(opened.rooms.broker, opened.settings.prefix, f"agent.{name}")
        assert "held" in [repair.result for repair in repairs]
        await delivery.ack()
    assert (await opened.inspect(name)).ledger.ended["processed"] == 1


async def test_a_repair_under_a_parked_consumer_goes_unnoticed_by_it(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("parked")
    agent = Agent(name)
    handled: list[Any] = []
    agent.on("task")(handled.append)
    async with opened.serving(agent):
        await command(opened, "XADD", keys_of(opened, name).sources[3], LARGEST_ID, "message", "not ours")
        await eventually(lambda: nothing_moves(opened, name))
        repairs = await repair_lanes(opened.rooms.broker, opened.settings.prefix, f"agent.{name}")
        assert [(r.stream, r.entries, r.dropped) for r in repairs if r.result == "repaired"] == [
            ("normal", 0, 0)
        ]
        await opened.publish(f"agent.{name}.task", "after")
        await eventually(lambda: handled == ["after"])
    assert (await opened.inspect(name)).ledger.closes


async def test_a_lane_that_takes_no_more_messages_holds_up_no_other(
    opened: Bus, unique: Callable[[str], str]
) -> None:
    name = unique("beside")
    agent = Agent(name, concurrency=1)
    handled: list[Any] = []
    agent.on("task")(handled.append)
    keys = keys_of(opened, name)
    await command(opened, "XADD", keys.sources[3], LARGEST_ID, "message", "not one of ours")
    async with opened.serving(agent):
        await eventually(lambda: nothing_moves(opened, name))
        # The index may still list a lane that parked reads have emptied.
        await command(opened, "ZADD", keys.lanes, 1, "normal")
        await opened.publish(f"agent.{name}.task", "low", priority="low")
        await opened.publish(f"agent.{name}.task", "high", priority="high")
        await eventually(lambda: sorted(handled) == ["high", "low"])
    inbox = Inbox(opened.rooms.broker, opened.settings.prefix, f"agent.{name}")
    assert await inbox.sweep() is False
