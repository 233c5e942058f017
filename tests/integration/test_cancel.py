"""Cancelling: what waits is marked and never handed out, what is due ends at once, what runs is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import redis

from agentbus import Agent, Bus, BusSettings, CancelRefused, InvalidTopic, NoSuchMessage, RequestFailed
from agentbus.broker.cancelling import Cancelling, Spot
from agentbus.broker.inbox import Inbox
from agentbus.broker.inspection.inbox_view import inspect_inbox
from agentbus.broker.parked_read import park
from agentbus.broker.repair import repair_lanes
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.chaos.books import Books, look
from tests.past import Past, bodies


@pytest_asyncio.fixture
async def past(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Past]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("cancel"))) as bus:
        yield await Past(bus, "reviewer").open()


def books(broker: BrokerForTests, past: Past) -> Books:
    with redis.Redis.from_url(broker.url) as server:
        found = look(server, past.address, past.bus.settings.prefix)
    assert found.difference == 0, found
    return found


async def test_what_waits_behind_others_is_marked_and_nobody_gets_it(
    past: Past, broker: BrokerForTests
) -> None:
    ids = await past.publish(*range(5))
    cancelled = await past.bus.cancel(ids[2], "reviewer")
    (place,) = cancelled.places
    assert (place.stream, place.ended) == ("normal", False)
    assert books(broker, past)["waiting"] == 5
    (marked,) = [entry for entry in await past.all(state="waiting") if entry.detail]
    assert (marked.detail, *bodies([marked])) == ("cancelled by planner", 2)
    # The server's own count of what waits stays right: nothing was deleted.
    view = await inspect_inbox(past.bus.rooms.broker, past.bus.settings.prefix, past.address)
    assert view.ledger.difference == 0
    assert [json.loads(entry.message)["body"]["content"] for entry in await past.fetch()] == [0, 1, 3, 4]
    assert books(broker, past)["cancelled"] == 1
    (ended,) = await past.all(state="ended")
    assert (ended.outcome, ended.consumer, *bodies([ended])) == ("cancelled", "planner", 2)
    assert await past.call("EXISTS", past.keys.cancelled) == 0


async def test_the_first_to_be_handed_out_ends_at_once_also_where_nobody_serves(
    past: Past, broker: BrokerForTests
) -> None:
    stored = [await past.bus.publish("agent.nobody.task", number) for number in range(3)]
    second = await past.bus.cancel(stored[1].message_id)
    assert [place.ended for place in second.places] == [False]
    first = await past.bus.cancel(stored[0].message_id)
    assert [place.ended for place in first.places] == [True]
    with redis.Redis.from_url(broker.url) as server:
        found = look(server, "agent.nobody", past.bus.settings.prefix)
        lane = f"{past.bus.settings.prefix}:{{agent.nobody}}:lane:normal"
        assert server.xinfo_consumers(lane, "inbox") == []
    # The second stood behind the first, so it has gone with it.
    assert (found["cancelled"], found["waiting"], found.difference) == (2, 1, 0)


async def test_what_is_due_ends_at_once_and_its_key_is_free_again(past: Past, broker: BrokerForTests) -> None:
    (later,) = await past.publish("later", delay="1h", key="k")
    (retried,) = await past.publish("again")
    (entry,) = await past.fetch()
    await past.inbox.postpone("c", entry, 3_600_000, "retried", "", retried)
    past.held.clear()
    for message_id in (later, retried):
        (place,) = (await past.bus.cancel(message_id)).places
        assert (place.stream, place.ended) == ("due", True)
    found = books(broker, past)
    assert (found["due"], found["cancelled"]) == (0, 2)
    assert sorted(bodies(await past.all(outcome="cancelled"))) == ["again", "later"]
    assert not (await past.bus.publish(f"{past.address}.task", "later", delay="1h", key="k")).duplicate


async def test_what_somebody_handles_is_refused_with_who_holds_it(past: Past) -> None:
    ids = await past.publish("held", "done", "dead")
    held, done, dead = await past.fetch()
    await past.settle([done])
    await past.inbox.bury("c", dead, "rejected", "no", "", 3)
    with pytest.raises(CancelRefused, match="being handled, held by c") as refused:
        await past.bus.cancel(ids[0], "reviewer")
    assert (refused.value.state, refused.value.consumer) == ("in_flight", "c")
    for message_id, state in ((ids[1], "processed"), (ids[2], "dead")):
        with pytest.raises(CancelRefused) as refused:
            await past.bus.cancel(message_id)
        assert refused.value.state == state
    with pytest.raises(NoSuchMessage, match=r"not known at agent\.reviewer"):
        await past.bus.cancel("0192", "reviewer")
    with pytest.raises(InvalidTopic, match="is a channel"):
        await past.bus.cancel(ids[0], "channel.design")
    # Handed out between the search and the script: the script has the last word.
    spot = Spot("normal", held.entry_id.decode(), b"")
    cancelling = Cancelling(past.bus.rooms.broker, past.bus.settings.prefix, past.address)
    assert await cancelling.cancel("me", [spot, Spot("due", "x", b"")]) == ["held c", "gone"]


async def test_a_parked_read_hands_out_nothing_that_was_cancelled(past: Past, broker: BrokerForTests) -> None:
    ids = await past.publish("first", "cancelled", "third")
    await past.bus.cancel(ids[1])
    link = past.bus.rooms.broker.open_link()

    async def parked() -> list[Any]:
        taken = await park(link, [past.inbox], "c", 50)
        return [json.loads(entry.message)["body"]["content"] for _, entry in taken]

    assert [await parked(), await parked(), await parked(), await parked()] == [["first"], [], ["third"], []]
    await link.close()
    assert books(broker, past)["cancelled"] == 1


async def test_what_a_lost_reply_handed_out_ends_when_its_owner_dies(
    past: Past, broker: BrokerForTests
) -> None:
    ids = await past.publish("first", "cancelled")
    await past.bus.cancel(ids[1])
    # Its reply was lost: the server handed both out, and the consumer knows of neither.
    await past.call("XREADGROUP", "GROUP", "inbox", "c", "STREAMS", past.keys.priority_lanes[2], ">")
    beat = (await past.inbox.beats())["c"]
    assert await past.inbox.reclaim("c", beat) is not None
    found = books(broker, past)
    assert (found["cancelled"], found["waiting"], found["in flight"]) == (1, 1, 0)


async def test_a_mark_goes_along_when_a_lane_is_given_a_new_stream(
    past: Past, broker: BrokerForTests
) -> None:
    ids = await past.publish("first", "cancelled")
    await past.bus.cancel(ids[1])
    lane = past.keys.priority_lanes[2]
    await past.call("XADD", lane, "18446744073709551615-18446744073709551615", "message", "{}")
    repairs = await repair_lanes(past.bus.rooms.broker, past.bus.settings.prefix, past.address)
    assert [one.result for one in repairs if one.result != "healthy"] == ["repaired"]
    taken = [entry.message for entry in await past.fetch()]
    assert len(taken) == 2 and not any(b"cancelled" in text for text in taken)
    assert books(broker, past)["cancelled"] == 1


async def test_who_asked_with_a_cancelled_request_is_told_at_once(past: Past) -> None:
    asking = asyncio.create_task(past.bus.request("agent.nobody.question", "?", timeout="30s"))

    async def cancel() -> bool:
        page = await past.bus.history("nobody", state="waiting")
        for entry in page.entries:
            assert entry.message is not None
            await past.bus.cancel(entry.message.message_id, "nobody")
        return bool(page.entries)

    await past.bus.publish("agent.nobody.task", "so that it is known")
    await eventually(cancel)
    with pytest.raises(RequestFailed, match="was cancelled") as failed:
        await asking
    assert failed.value.reason == "cancelled"


async def test_messages_cancelled_while_agents_work_are_handled_or_cancelled_never_both(
    past: Past, broker: BrokerForTests
) -> None:
    handled: list[str] = []
    agent = Agent("busy", concurrency=4)

    @agent.on("task")
    async def work(number: int) -> None:
        handled.append(str(number))

    stored = await past.bus.publish_many("agent.busy.task", range(300))
    cancelled: list[str] = []

    async def cancel() -> None:
        for number in range(299, 0, -7):
            try:
                await past.bus.cancel(stored[number].message_id, "busy")  # type: ignore[union-attr]
            except CancelRefused:
                continue
            cancelled.append(str(number))

    async with past.bus.serving(agent):
        await cancel()

        async def all_ended() -> bool:
            return len(handled) + len(cancelled) >= 300

        await eventually(all_ended)
    assert sorted(handled + cancelled) == sorted(map(str, range(300)))
    with redis.Redis.from_url(broker.url) as server:
        found = look(server, "agent.busy", past.bus.settings.prefix)
    assert (found["processed"], found["cancelled"]) == (len(handled), len(cancelled))
    assert (found.difference, found.unsettled) == (0, 0)


async def test_what_a_lost_reply_handed_out_is_not_run_by_its_living_owner(
    past: Past, broker: BrokerForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.receive.audit.AUDIT_INTERVAL", 0.1)
    agent, seen, go_on = Agent("slow", concurrency=1), list[str](), asyncio.Event()

    @agent.on("task")
    async def work(text: str) -> None:
        seen.append(text)
        if text == "first":
            await go_on.wait()

    inbox = Inbox(past.bus.rooms.broker, past.bus.settings.prefix, "agent.slow")
    async with past.bus.serving(agent):
        await past.bus.publish("agent.slow.task", "first")
        await eventually(lambda: seen == ["first"])
        stored = [await past.bus.publish("agent.slow.task", text) for text in ("second", "cancelled")]
        await past.bus.cancel(stored[1].message_id, "slow")
        (consumer,) = await inbox.beats()
        await past.call("XREADGROUP", "GROUP", "inbox", consumer, "STREAMS", inbox.keys.sources[3], ">")
        go_on.set()

        async def both_ended() -> bool:
            with redis.Redis.from_url(broker.url) as server:
                found = look(server, "agent.slow", past.bus.settings.prefix)
            return (found["processed"], found["cancelled"], found.unsettled) == (2, 1, 0)

        await eventually(both_ended)
    assert seen == ["first", "second"]
