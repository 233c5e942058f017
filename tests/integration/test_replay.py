"""Replays: a range of history in an agent's inbox, each message once, however often it is interrupted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from agentbus import (
    Agent,
    Bus,
    BusSettings,
    Context,
    InvalidTopic,
    InvalidValue,
    NoSuchAddress,
    NoSuchAgent,
    ReplayProgress,
)
from agentbus.archive.connection import Database
from agentbus.broker.carry import Carrier
from agentbus.errors import ArchiveUnavailable
from agentbus.replay import pacing
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually, stays
from tests.archiving import Archivist
from tests.past import Past


@pytest_asyncio.fixture
async def past(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Past]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("replay"))) as bus:
        yield await Past(bus, "newcomer").open()


@pytest_asyncio.fixture
async def archived(
    broker: BrokerForTests, postgres_dsn: str, unique: Callable[[str], str]
) -> AsyncIterator[Past]:
    chosen = BusSettings(prefix=unique("replay"), archive=postgres_dsn)
    async with Bus(broker.url, agent="planner", settings=chosen) as bus:
        yield await Past(bus, "newcomer").open()


async def contents(past: Past) -> list[Any]:
    return [json.loads(entry.message)["body"]["content"] for entry in await past.fetch(10_000)]


async def test_a_range_of_redis_and_the_archive_arrives_oldest_first_and_says_what_it_is(
    archived: Past, postgres_dsn: str
) -> None:
    past, bus = archived, archived.bus
    for number in range(6):
        await bus.publish("project.demo.commit", number, project="demo", correlation_id=f"c{number % 2}")
    # Without the archive a part of the range would be missing for good.
    with pytest.raises(ArchiveUnavailable, match="r1 goes on under its id"):
        await bus.replay("project.demo", to="newcomer", replay_id="r1")
    database = Database(postgres_dsn)
    await (await Archivist(bus, database).open()).log("project.demo")
    await past.call("XTRIM", f"{bus.settings.prefix}:{{project.demo}}:log", "MAXLEN", 2)
    await bus.publish("project.demo.note", 6, priority="high", ttl="1h")
    await database.close()
    done = await bus.replay("project.demo", to="newcomer")
    assert (done.count, done.complete, done.gaps, done.skipped) == (7, True, (), 0)
    taken = await past.fetch()
    envelopes = [json.loads(entry.message) for entry in taken]
    # The priority is that of the message; within one, the order is that of the past.
    assert [one["body"]["content"] for one in envelopes] == [6, 0, 1, 2, 3, 4, 5]
    original = (await bus.history("project.demo")).entries[0].message
    assert original is not None
    marker = envelopes[0].pop("replay")
    assert envelopes[0] == original.envelope
    assert (marker["id"], marker["of"]) == (done.id, "project.demo.note")
    await past.settle(taken)
    # Filters, and a limit.
    asked = {"correlation_id": "c1", "type": "commit", "since": "1h", "sender": "planner"}
    assert (await bus.replay("project.demo", to="newcomer", limit=2, **asked)).count == 2  # type: ignore[arg-type]
    assert await contents(past) == [1, 3]


async def test_an_interrupted_replay_goes_on_under_its_id_and_neither_loses_nor_doubles(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    await past.bus.publish_many("channel.design.note", range(250))
    carry, carried = Carrier.carry, 0

    async def interrupted(self: Carrier, *arguments: Any, **options: Any) -> Any:
        nonlocal carried
        carried += 1
        done = await carry(self, *arguments, **options)
        if carried in (30, 170, 171):
            # The process died after the message was stored, and before anybody was told.
            raise asyncio.CancelledError
        return done

    monkeypatch.setattr(Carrier, "carry", interrupted)
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            await past.bus.replay("channel.design", to="newcomer", replay_id="r1", since="1h")
        await past.bus.publish("channel.design.note", "after it began")
    done = await past.bus.replay("channel.design", to="newcomer", replay_id="r1", since="1h")
    assert done.count == 250
    assert await contents(past) == list(range(250))
    again = await past.bus.replay("channel.design", to="newcomer", replay_id="r1", since="1h")
    assert (again.count, await contents(past)) == (250, [])
    with pytest.raises(InvalidValue, match=r"replay_id: r1 is another replay: .*channel\.design"):
        await past.bus.replay("channel.design", to="newcomer", replay_id="r1", since="2h")


async def test_an_agent_gets_its_own_past_once_more_and_handlers_can_tell(past: Past) -> None:
    agent, seen = Agent("reviewer"), list[tuple[int, bool]]()

    @agent.on("task")
    async def review(number: int, context: Context) -> None:
        seen.append((number, context.message.replayed is not None))

    heard: list[str] = []
    past.bus.events.listen(lambda event: heard.append(event.action))
    async with past.bus.serving(agent):
        await past.bus.request("agent.reviewer.task", 0)
        for number in (1, 2):
            await past.bus.publish("agent.reviewer.task", number)
        await eventually(lambda: len(seen) == 3)
        await past.bus.publish("agent.reviewer.task", "waits", delay="1h")
        # It does not replay what it causes, nor a second time what it caused before.
        for round in (2, 3):
            done = await past.bus.replay("reviewer", to="reviewer")
            assert done.count == 3
            await eventually(lambda wanted=3 * round: len(seen) == wanted)  # type: ignore[misc]
    # Who asked has had an answer, and gets no other.
    assert not {"late_reply", "reply_undeliverable"} & set(heard)
    assert seen == [(number, round > 0) for round in range(3) for number in range(3)]


async def test_a_replay_waits_while_the_inbox_has_enough_and_goes_on_when_it_is_handled(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentbus.replay.replay.MOST_UNSETTLED", 5)
    monkeypatch.setattr(pacing, "_LONGEST_PAUSE", 0.02)
    await past.bus.publish_many("channel.design.note", range(12))
    told: list[ReplayProgress] = []
    replay = asyncio.create_task(
        past.bus.replay("channel.design", to="newcomer", replay_id="paced", progress=told.append)
    )
    await eventually(lambda: any(one.paused for one in told))
    assert len(await past.fetch()) == 5
    await stays(lambda: not replay.done(), 0.1)
    while not replay.done():
        await past.settle(past.held[:2])
        await past.fetch()
        await asyncio.sleep(0.01)
    assert (await replay).count == 12
    # With a rate the inbox's own limit counts; and the rate is kept.
    begin = asyncio.get_running_loop().time()
    await past.bus.replay("channel.design", to="newcomer", rate=200, limit=10)
    assert asyncio.get_running_loop().time() - begin >= 9 / 200


async def test_what_is_missing_is_said_and_what_cannot_be_is_refused(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = past.bus
    await bus.publish_many("channel.design.note", range(5))
    await past.call("XTRIM", f"{bus.settings.prefix}:{{channel.design}}:log", "MAXLEN", 3)
    done = await bus.replay("channel.design", to="newcomer")
    assert (done.count, done.complete, [gap.kind for gap in done.gaps]) == (3, False, ["trimmed"])
    empty = await bus.replay("channel.design", to="newcomer", type="other")
    assert empty.count == 0
    with pytest.raises(
        NoSuchAgent, match=r"nobody has ever served agent\.newcome; did you mean agent\.newco"
    ):
        await bus.replay("channel.design", to="newcome")
    assert (await bus.replay("channel.design", to="later", allow_unknown=True)).count == 3
    with pytest.raises(NoSuchAddress):
        await bus.replay("channel.nothing", to="newcomer", replay_id="typo")
    # A mistake takes no id: the same id for the right channel is no other replay.
    done = await bus.replay("channel.design", to="another", allow_unknown=True, replay_id="typo")
    assert done.count == 3
    with pytest.raises(InvalidTopic, match="wildcard"):
        await bus.replay("channel.*", to="newcomer")
    with pytest.raises(InvalidTopic, match="is a channel"):
        await bus.replay("channel.design", to="channel.other")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    done = await bus.replay("channel.design", to="by-the-server", allow_unknown=True, since="1m")
    assert done.count == 3
    refused: list[tuple[str, dict[str, Any]]] = [
        ("since", {"since": "yesterday"}), ("until", {"since": "1h", "until": "2h"}), ("limit", {"limit": 0}),
        ("rate", {"rate": 0}), ("replay_id", {"replay_id": "a b"}), ("outcome", {"outcome": "expired"}),
    ]  # fmt: skip
    for field, options in refused:
        with pytest.raises(InvalidValue) as error:
            await bus.replay("channel.design", to="newcomer", **options)
        assert error.value.field == field
    assert len(await past.fetch()) == 3


async def test_a_channel_that_is_replayed_goes_to_its_handlers_and_not_to_whoever_wrote_it(
    past: Past, broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    name, channel = unique("reader"), f"channel.{unique('design')}"
    agent, seen = Agent(name), list[tuple[Any, bool]]()

    @agent.on(f"{channel}.note")
    async def note(body: Any, context: Context) -> None:
        seen.append((body, context.message.replayed is not None))

    @agent.on()
    async def anything(body: Any) -> None:
        raise AssertionError("a message of a channel came to the inbox's own handler")

    for body in ("old", "older"):
        await past.bus.publish(f"{channel}.note", body)
    await past.bus.publish(f"{channel}.unread", "of no interest")
    async with Bus(broker.url, agent=name, settings=past.bus.settings) as own:
        await own.publish(f"{channel}.note", "its own")
    async with past.bus.serving(agent):
        done = await past.bus.replay(channel, to=name, allow_unknown=True)
        assert done.count == 4

        async def all_processed() -> bool:
            return (await past.bus.inspect(name)).ledger.ended["processed"] == 4

        await eventually(all_processed)
    assert seen == [("old", True), ("older", True)]
