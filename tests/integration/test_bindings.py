"""Durable wildcards on a real server: every publisher copies what matches, once, to those who may have it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest

from agentbus import Agent, Bus, BusSettings, Message, RefusedCopy
from agentbus.bindings import table
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.bindings import bind_before_anybody_asked, collector, consenting, contents

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="binder", settings=BusSettings(prefix=unique("bound"))) as opened:
        yield opened


@pytest.fixture
async def sender(broker: BrokerForTests, bus: Bus) -> AsyncIterator[Bus]:
    """Another publisher, with a table of its own."""
    async with Bus(broker.url, agent="sender", settings=bus.settings) as opened:
        yield opened


@pytest.mark.usefixtures("quick")
async def test_what_matches_is_copied_to_an_agent_that_was_bound_before_it_was_served(
    bus: Bus, sender: Bus
) -> None:
    observer, seen = collector("observer", "agent.*.status", "channel.design.>")
    stored = await sender.publish("agent.planner.status", "before anybody was bound")
    assert (stored.copies, stored.refused_copies) == (0, ())
    async with bus.serving(observer, consenting("planner", "observer"), consenting("writer")):
        to_planner = await sender.publish("agent.planner.status", 1, priority="high", correlation_id="c")
        to_channel = await sender.publish("channel.design.note", 2)
        assert (to_planner.copies, to_channel.copies) == (1, 1)
        assert (await sender.publish("agent.planner.task", "another type")).copies == 0
        assert (await sender.publish("agent.observer.status", 3)).copies == 0
        async with Bus(bus._url, agent="observer", settings=bus.settings) as own:
            assert (await own.publish("channel.design.note", "what it sent itself")).copies == 0
        for refusing in ("writer", "nobody"):
            refused = await sender.publish(f"agent.{refusing}.status", "not for others")
            detail = f"agent.{refusing} allows observer no copies"
            assert refused.copies == 0
            assert refused.refused_copies == (RefusedCopy("observer", "no_consent", detail),)
        await eventually(lambda: len(seen) == 3)
    first, second, own = sorted(seen, key=lambda message: message.content)
    assert (first.message_id, first.priority, first.correlation_id) == (to_planner.message_id, "high", "c")
    assert (first.copy_of, first.to_agent) == ("agent.planner.status", "planner")
    assert (second.message_id, second.channel) == (to_channel.message_id, "channel.design")
    assert own.copy_of is None
    channel, status = sorted(
        await eventually(lambda: _counted(bus, 2)), key=lambda one: one.pattern, reverse=True
    )
    assert (status.pattern, status.copied, status.refused) == ("agent.*.status", 1, {"no_consent": 2})
    assert (channel.pattern, channel.copied, channel.refused) == ("channel.design.>", 1, {})


async def _counted(bus: Bus, copied: int) -> Any:
    bindings = await bus.bindings()
    return bindings if sum(binding.copied for binding in bindings) == copied else None


async def test_from_when_bind_has_returned_until_unbind_has_everything_is_copied_once(
    bus: Bus, sender: Bus, client: Any
) -> None:
    observer, _ = collector("observer")
    numbers, ended = count(), asyncio.Event()
    bound_at = unbound_at = stopped_at = 0

    async def publish_on_and_on(publisher: Bus) -> None:
        while not ended.is_set():
            await asyncio.gather(*(publisher.publish("channel.load.note", next(numbers)) for _ in range(5)))
            await asyncio.sleep(0.002)

    async with bus.serving(observer), asyncio.TaskGroup() as group:
        for publisher in (bus, sender):
            group.create_task(publish_on_and_on(publisher))
        await eventually(lambda: next(numbers) > 50)
        await observer.bind("channel.load.*")
        bound_at = next(numbers)
        await eventually(lambda: next(numbers) > bound_at + 200)
        unbound_at = next(numbers)
        await observer.unbind("channel.load.*")
        stopped_at = next(numbers)
        await eventually(lambda: next(numbers) > stopped_at + 50)
        ended.set()
    copied = Counter(await contents(client, bus.settings, "observer"))
    published = await _published(client, bus, "channel.load")
    assert set(copied.values()) == {1}
    assert {number for number in published if bound_at < number < unbound_at} <= copied.keys()
    assert max(copied) < stopped_at
    assert len([number for number in published if bound_at < number < unbound_at]) > 100


async def _published(client: Any, bus: Bus, channel: str) -> set[int]:
    entries = await client.xrange(f"{bus.settings.prefix}:{{{channel}}}:log")
    return {json.loads(fields[b"message"])["body"]["content"] for _, fields in entries}


@pytest.mark.usefixtures("quick")
async def test_bindings_stay_when_their_agent_stops_until_somebody_unbinds_it(
    bus: Bus, sender: Bus, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus.serving(collector("observer", "channel.design.*", "channel.other.*")[0]):
        pass
    results = await sender.publish_many("channel.design.note", range(600))
    assert {result.copies for result in results if not isinstance(result, Exception)} == {1}
    assert await contents(client, bus.settings, "observer") == list(range(600))
    assert await bus.unbind("observer", "channel.design.*")
    assert (await sender.publish("channel.design.note", 600)).copies == 0
    assert not await bus.unbind("observer", "channel.design.*")
    assert [binding.pattern for binding in await bus.bindings()] == ["channel.other.*"]
    assert len(await client.hkeys(f"{bus.settings.prefix}:copies")) == 0
    # What has held for long holds at once when the agent is served again.
    monkeypatch.setattr(table, "HOLDS_AFTER", 3600)
    async with asyncio.timeout(10), bus.serving(collector("observer", "channel.other.*")[0]):
        pass


async def test_a_key_that_is_used_again_never_makes_a_second_copy(bus: Bus, sender: Bus, client: Any) -> None:
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    for publisher, copies in ((sender, 1), (sender, 1), (bus, 1)):
        # Keys belong to a sender's name.
        async with Bus(publisher._url, agent="sender", settings=bus.settings) as again:
            assert (await again.publish("channel.design.note", "once", key="k")).copies == copies
    assert await contents(client, bus.settings, "observer") == ["once"]


async def test_delayed_messages_and_those_with_a_time_to_live_are_copied_with_it(
    bus: Bus, sender: Bus, client: Any
) -> None:
    await bind_before_anybody_asked(bus, "observer", "agent.observed.*")
    await bus.rooms.bindings.consent("agent.observed", "observed", ("*",))
    for _ in range(2):
        stored = await sender.publish("agent.observed.task", "later", delay="1h", ttl="2h", key="k")
        assert stored.copies == 1
    await sender.publish("agent.observed.task", "short", ttl="30s")
    view = await bus.inspect("agent.observer")
    assert (view.due, len(await contents(client, bus.settings, "observer"))) == (1, 1)
    ((_, entry),) = await client.xrange(f"{bus.settings.prefix}:{{agent.observer}}:lane:normal")
    (server_s, _), state = await client.time(), json.loads(entry[b"state"])
    assert 0 < state["expires"] - server_s * 1000 <= 31_000


async def test_the_copy_of_a_question_answers_nobody(bus: Bus, sender: Bus) -> None:
    observer = Agent("observer")
    await bind_before_anybody_asked(bus, "observer", "agent.expert.question")
    await bus.rooms.bindings.consent("agent.expert", "expert", ("observer",))
    heard = asyncio.Event()

    @observer.on("question")
    async def listen_in(message: Message) -> str:
        heard.set()
        return "the observer's"

    expert = consenting("expert", "observer")

    @expert.on("question")
    async def answer(question: str) -> str:
        await heard.wait()
        return "the expert's"

    async with bus.serving(observer, expert):
        assert await sender.request("agent.expert.question", "?", timeout="10s") == "the expert's"


async def test_an_application_that_gives_up_waiting_loses_no_copies(
    bus: Bus, sender: Bus, client: Any
) -> None:
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    await sender.publish("channel.design.note", -1)
    log = f"{bus.settings.prefix}:{{channel.design}}:log"
    for number in range(20):
        task = asyncio.create_task(sender.publish("channel.design.note", number))
        # One turn later it is on its way to the server, and its caller is gone.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
    stored = await eventually(lambda: _as_many_as(client, log))
    await eventually(lambda: _copied(client, bus, stored))


async def _as_many_as(client: Any, log: str) -> int:
    first = await client.xlen(log)
    await asyncio.sleep(0.05)
    return first if first > 1 and await client.xlen(log) == first else 0


async def _copied(client: Any, bus: Bus, many: int) -> bool:
    return len(await contents(client, bus.settings, "observer")) == many


@pytest.mark.usefixtures("quick")
async def test_a_consent_stays_until_its_agent_is_served_with_another_one(bus: Bus, sender: Bus) -> None:
    await bind_before_anybody_asked(bus, "observer", "agent.planner.*")
    async with bus.serving(consenting("planner", "observer")):
        assert (await sender.publish("agent.planner.task", 1)).copies == 1
    # Somebody who pulls from the inbox by hand has no opinion.
    assert await bus.next("planner", timeout="1ms") is None
    await sender.rooms.table.hold()
    assert (await sender.publish("agent.planner.task", 2)).copies == 1
    async with bus.serving(consenting("planner")):
        assert (await sender.publish("agent.planner.task", 3)).copies == 0
