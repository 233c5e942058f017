"""Copies that a publisher did not make, as it died or was not answered, are made by somebody else, once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from agentbus import Bus, BusSettings, PublishRefused, PublishTimeout, QueueFull
from agentbus.broker import keys
from agentbus.broker.owed import DebtStore
from agentbus.cli.findings_services import examine_owed
from agentbus.errors import BrokerUnavailable
from agentbus.events import Event
from agentbus.message import owed as notes
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.bindings import bind_before_anybody_asked, collector, consenting, contents, quicken
from tests.owing import die_owing, nothing_owed, owe, owed_at, pay, quicken_debts
from tests.proxy import Proxy, nothing
from tests.publishing import is_publish
from tests.service import working
from workers.reclaim import Reclaim

Unique = Callable[[str], str]
PATTERNS = ("channel.design.*", "agent.planner.*")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
    quicken_debts(monkeypatch)


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="sender", settings=BusSettings(prefix=unique("owed"))) as opened:
        await bind_before_anybody_asked(opened, "observer", *PATTERNS)
        await opened.rooms.bindings.consent("agent.planner", "planner", ("*",))
        yield opened


@pytest.fixture
def heard(bus: Bus) -> list[Event]:
    events: list[Event] = []
    bus.events.listen(events.append)
    return events


_OF_ALL_KINDS = """
        await asyncio.gather(
            bus.publish("channel.design.note", "note"),
            bus.publish("agent.planner.task", "task", key="k", ttl="1h"),
            bus.publish("agent.planner.task", "later", delay="1h"),
            bus.publish("agent.planner.task", "later with a key", delay="1h", key="l"),
        )
"""


def _bound_agent(bus: Bus) -> AbstractAsyncContextManager[Any]:
    return bus.serving(collector("observer", *PATTERNS)[0])


def _another_bound_agent(bus: Bus) -> AbstractAsyncContextManager[Any]:
    return bus.serving(collector("other", "channel.other.*")[0])


def _worker(bus: Bus) -> AbstractAsyncContextManager[Any]:
    return working(bus, Reclaim)


@pytest.mark.parametrize("whoever_looks", [_bound_agent, _another_bound_agent, _worker])
async def test_copies_of_a_publisher_that_was_killed_after_it_had_stored_are_made_by_whoever_looks(
    bus: Bus,
    client: Any,
    heard: list[Event],
    whoever_looks: Callable[[Bus], AbstractAsyncContextManager[Any]],
) -> None:
    await die_owing(bus, 4, _OF_ALL_KINDS)
    assert await contents(client, bus.settings, "observer") == []
    assert len(await owed_at(client, bus, "channel.design")) == 1
    assert len(await owed_at(client, bus, "agent.planner")) == 3
    async with whoever_looks(bus):
        await eventually(lambda: nothing_owed(client, bus))
    assert Counter(await contents(client, bus.settings, "observer")) == {"note": 1, "task": 1}
    view = await bus.inspect("agent.observer")
    assert (view.due, view.ledger.accepted) == (2, 4)
    made = [event for event in heard if event.action == "copy_made_good"]
    assert sum(event.fields["count"] for event in made) == 4
    assert {(event.address, event.fields["agent"]) for event in made} == {
        ("channel.design", "observer"), ("agent.planner", "observer"),
    }  # fmt: skip
    counted = {binding.pattern: binding.copied for binding in await bus.bindings()}
    assert (counted["channel.design.*"], counted["agent.planner.*"]) == (1, 3)
    await _same_times(client, bus)


async def _same_times(client: Any, bus: Bus) -> None:
    """The copies expire and come due when their messages do."""
    of, copies = (keys.inbox_keys(bus.settings.prefix, f"agent.{name}") for name in ("planner", "observer"))
    task, copy = [
        json.loads(fields[b"state"])
        for lane in (of.sources[3], copies.sources[3])
        for _, fields in await client.xrange(lane)
        if b"state" in fields
    ]
    assert copy["expires"] == task["expires"]
    for name, due in await client.zrange(of.due, 0, -1, withscores=True):
        # To the accuracy with which this process knows the server's clock.
        assert abs(await client.zscore(copies.due, name) - due) < 5_000


async def test_a_publisher_that_comes_back_while_others_make_its_copies_makes_no_second_one(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    many = 40
    what = f"""
        await asyncio.gather(*(
            bus.publish(("channel.design.note", "agent.planner.task")[number % 2], number, key=str(number),
                        **({{"delay": "1h"}} if number % 4 == 1 else {{}}))
            for number in range({many})
        ))
"""
    await die_owing(bus, many, what)

    async def again(number: int) -> Any:
        later: dict[str, Any] = {"delay": "1h"} if number % 4 == 1 else {}
        topic = ("channel.design.note", "agent.planner.task")[number % 2]
        return await bus.publish(topic, number, key=str(number), **later)

    async with Bus(broker.url, agent="other", settings=bus.settings) as other:
        stored, *_ = await asyncio.gather(
            asyncio.gather(*map(again, range(many))), pay(client, other), bus.rooms.debts.pay()
        )
        assert {(one.duplicate, one.copies) for one in stored} == {(True, 1)}
        await eventually(lambda: _paid(client, other))
    view = await bus.inspect("agent.observer")
    assert (view.ledger.accepted, view.due) == (many, many // 4)
    assert Counter(await contents(client, bus.settings, "observer")) == dict.fromkeys(
        (number for number in range(many) if number % 4 != 1), 1
    )


async def _paid(client: Any, bus: Bus) -> bool:
    await pay(client, bus)
    return await nothing_owed(client, bus)


async def test_a_tick_whose_worker_was_killed_is_copied_all_the_same(bus: Bus, client: Any) -> None:
    what = """
        await bus.schedules.add("channel.design.note", "tick", "interval:1", ttl="1h")
        async with working(bus, Recurring):
            await asyncio.Event().wait()
"""
    await die_owing(bus, 1, what)
    assert await contents(client, bus.settings, "observer") == []
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == ["tick"]
    assert await nothing_owed(client, bus)


async def test_a_message_that_nobody_knows_to_be_stored_is_copied_if_it_is(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent="sender", settings=bus.settings) as sender:
        await sender.publish("agent.other.task", "the server knows the script")
        proxy.lose_reply = is_publish
        with pytest.raises(PublishTimeout) as late:
            await sender.publish("agent.planner.task", "unsure", deadline="200ms")
        assert late.value.uncertain
        proxy.lose_reply = nothing
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == ["unsure"]


async def test_a_copy_that_was_refused_at_its_deadline_is_made_later(
    bus: Bus, client: Any, heard: list[Event]
) -> None:
    await bind_before_anybody_asked(bus, "second", "channel.design.*")
    stored = await owe(lambda: bus.publish("channel.design.note", 1, deadline="50ms"))
    assert await owed_at(client, bus, "channel.design") == [stored.message_id]
    await eventually(lambda: _counted(bus, "deadline"))
    await pay(client, bus)
    for agent in ("observer", "second"):
        assert await contents(client, bus.settings, agent) == [1]
    made = [event.fields["agent"] for event in heard if event.action == "copy_made_good"]
    assert sorted(made) == ["observer", "second"]


async def _counted(bus: Bus, reason: str) -> bool:
    return all(
        binding.refused.get(reason) == 1 for binding in await bus.bindings() if binding.agent == "second"
    )


async def test_what_has_been_copied_is_owed_no_more_and_what_nobody_wants_never_was(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    await bus.publish("agent.writer.task", "nobody wants it")
    await bus.publish("agent.writer.task", "nor this", ttl="1h", key="w")
    assert await client.exists(keys.owing(bus.settings.prefix)) == 0
    results = await bus.publish_many("channel.design.note", range(300))
    assert sum(one.copies for one in results if not isinstance(one, Exception)) == 300
    async with Bus(broker.url, agent="observer", settings=bus.settings) as own:
        assert (await own.publish("channel.design.note", "its own")).copies == 0
    await eventually(lambda: nothing_owed(client, bus))
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == list(range(300))


async def test_one_whose_copy_is_missing_does_not_make_those_that_exist_owed_again(
    bus: Bus, client: Any
) -> None:
    debts = DebtStore(bus.rooms.broker, bus.settings.prefix)
    await bind_before_anybody_asked(bus, "second", "channel.design.*")
    stored = await owe(lambda: bus.publish("channel.design.note", 1, deadline="50ms"))
    await debts.strike("channel.design", [(stored.message_id, ["observer"])])
    assert await owed_at(client, bus, "channel.design") == [stored.message_id]
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == []
    assert await contents(client, bus.settings, "second") == [1]
    assert await nothing_owed(client, bus)


async def test_what_is_owed_to_those_who_want_it_no_more_or_cannot_take_it_ends_and_is_told(
    bus: Bus, client: Any, heard: list[Event]
) -> None:
    prefix = bus.settings.prefix
    for agent in ("second", "third"):
        await bind_before_anybody_asked(bus, agent, *PATTERNS)
    await owe(lambda: bus.publish("channel.design.note", 1, deadline="50ms"))
    await owe(lambda: bus.publish("agent.planner.task", 2, deadline="50ms"))
    spoilt = await owe(lambda: bus.publish("channel.design.note", 3, deadline="50ms"))
    await bus.unbind("second", "channel.design.*")
    await bus.rooms.bindings.consent("agent.planner", "planner", ("observer",))
    await client.hset(keys.owed(prefix, "channel.design")[1], spoilt.message_id, "nonsense")
    broken = keys.inbox_keys(prefix, "agent.third").ledger
    await client.set(broken, "somebody's mistake")
    bus.rooms.table.outdate()
    await pay(client, bus)
    assert sorted(await contents(client, bus.settings, "observer")) == [1, 2]
    given_up = Counter(
        (event.address, event.fields["agent"], event.fields["reason"])
        for event in heard
        if event.action == "copy_given_up"
    )
    assert given_up == {
        ("channel.design", "second", "unbound"): 1,
        ("channel.design", "third", "refused"): 1,
        ("agent.planner", "second", "no_consent"): 1,
        ("agent.planner", "third", "no_consent"): 1,
        ("channel.design", "", "unreadable"): 1,
    }
    assert await nothing_owed(client, bus)


async def test_copies_that_nobody_makes_are_found_by_the_doctor_and_are_no_more_than_the_limit(
    bus: Bus, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, prefix = bus.rooms.broker, bus.settings.prefix
    monkeypatch.setattr(notes, "MOST_OWED", 3)
    for number in range(2):
        await owe(lambda number=number: bus.publish("channel.design.note", number, deadline="50ms"))
    assert await examine_owed(broker, prefix) == []
    index, _ = keys.owed(prefix, "channel.design")
    await client.zadd(index, dict.fromkeys(await client.zrange(index, 0, -1), 1))
    (finding,) = await examine_owed(broker, prefix)
    assert (finding.subject, finding.status) == ("channel.design", "warn")
    assert finding.detail.startswith("copies of 2 messages are owed")
    one, more = await bus.publish_many("channel.design.note", ("one", "more"))
    assert not isinstance(one, Exception) and one.copies == 1
    assert isinstance(more, QueueFull) and "copies of 3 messages are owed" in str(more)
    await bus.publish("channel.other.note", "nobody wants it")


async def test_an_address_that_somebody_took_off_the_list_is_listed_again(bus: Bus, client: Any) -> None:
    await owe(lambda: bus.publish("channel.design.note", 1, deadline="50ms"))
    await client.delete(keys.owing(bus.settings.prefix))
    async with working(bus, Reclaim, sweep=0.05):
        await eventually(lambda: nothing_owed(client, bus))
    assert await contents(client, bus.settings, "observer") == [1]


async def test_a_project_that_was_deleted_is_not_copied_afterwards(bus: Bus, client: Any) -> None:
    await bind_before_anybody_asked(bus, "observer", "project.demo.*")
    await owe(lambda: bus.publish("project.demo.commit", 1, deadline="50ms"))
    await owe(lambda: bus.publish("agent.planner.task", 2, deadline="50ms", project="demo"))
    await owe(lambda: bus.publish("agent.planner.task", "of nobody", deadline="50ms"))
    looked = await bus.delete_project("demo", reason="over", dry_run=True)
    done = await bus.delete_project("demo", reason="over")
    assert looked.counts["owed"] == done.counts["owed"] == 2
    assert await owed_at(client, bus, "project.demo") == []
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == ["of nobody"]


async def test_a_message_that_was_handled_meanwhile_is_copied_all_the_same(bus: Bus, client: Any) -> None:
    await owe(lambda: bus.publish("agent.planner.task", "handled long ago", deadline="50ms"))
    async with bus.serving(consenting("planner", "*")):
        await eventually(lambda: _handled(bus))
    await client.delete(*keys.inbox_keys(bus.settings.prefix, "agent.planner").sources)
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == ["handled long ago"]


async def _handled(bus: Bus) -> bool:
    return (await bus.inspect("agent.planner")).ledger.ended.get("processed") == 1


async def test_whoever_dies_between_making_a_copy_and_striking_it_off_doubles_and_counts_nothing_twice(
    bus: Bus, client: Any, heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    await owe(lambda: bus.publish("channel.design.note", 1, deadline="50ms"))
    with monkeypatch.context() as patch:
        patch.setattr(DebtStore, "strike", _unreachable)
        with pytest.raises(BrokerUnavailable):
            await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == [1]
    await pay(client, bus)
    assert await contents(client, bus.settings, "observer") == [1]
    assert await nothing_owed(client, bus)
    # The one who died had counted it, and had told nobody.
    assert [binding.copied for binding in await bus.bindings() if binding.pattern == "channel.design.*"] == [
        1
    ]
    assert [event.action for event in heard if event.action.startswith("copy")] == []


async def _unreachable(*_: Any) -> None:
    raise BrokerUnavailable("as if it had died")


@pytest.mark.parametrize("key", ["owing", "{channel.design}:owed", "{channel.design}:owed:messages"])
async def test_where_nothing_can_be_noted_nothing_is_stored_that_would_be_copied(
    bus: Bus, client: Any, key: str
) -> None:
    await client.set(f"{bus.settings.prefix}:{key}", "somebody's mistake")
    with pytest.raises(PublishRefused, match=key.replace("{", r"\{")):
        await bus.publish("channel.design.note", 1)
    assert await client.exists(f"{bus.settings.prefix}:{{channel.design}}:log") == 0
    await client.delete(f"{bus.settings.prefix}:{key}")
    assert (await bus.publish("channel.design.note", 2)).copies == 1
