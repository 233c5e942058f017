"""Role dead: every dead letter is announced exactly once, whoever dies; a policy retries; a cap warns."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import Bus, BusSettings, Policy
from agentbus.broker.keys import addresses, channel_keys, inbox_keys
from agentbus.broker.notices import CHANNEL, NoticeBoard
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.letters import bury_all, make_dead
from tests.service import working
from workers.dead import Dead
from workers.role import Ground
from workers.settings import WorkerSettings
from workers.share import Share

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    settings = BusSettings(prefix=unique("p"))
    async with Bus(broker.url, agent="tester", settings=settings) as opened:
        yield opened
        keys = await opened.rooms.broker.execute("KEYS", f"{settings.prefix}:*")
        if keys:
            await opened.rooms.broker.execute("UNLINK", *keys)


def role(bus: Bus, worker: str = "one") -> Dead:
    return Dead(Ground(bus, WorkerSettings(), Share(worker)))


async def notices(bus: Bus) -> list[Message]:
    log = channel_keys(bus.settings.prefix, CHANNEL).log
    return [decode(flat[1]) for _, flat in await bus.rooms.broker.execute("XRANGE", log, "-", "+")]


async def announced(bus: Bus) -> list[str]:
    return [notice.content["dlq_id"] for notice in await notices(bus)]


async def ledger(bus: Bus, address: str) -> dict[str, int]:
    key = inbox_keys(bus.settings.prefix, address).ledger
    flat = await bus.rooms.broker.execute("HGETALL", key)
    return {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


# --- notices ---


async def test_a_dead_letter_is_announced_as_a_message_that_says_what_died_and_why(bus: Bus) -> None:
    (id,) = await make_dead(bus, "r", {"n": 1}, session_id="s1", correlation_id="c1")
    letter = await bus.dead_letters.get(id)
    await role(bus).look_around()
    (notice,) = await notices(bus)
    assert (notice.message_type, notice.channel, notice.from_agent) == ("dlq", "system.errors", "workers")
    assert (notice.causation_id, notice.correlation_id) == (letter.message_id, "c1")
    expected = {
        "dlq_id": id, "message_id": letter.message_id, "address": "agent.r", "type": "task",
        "reason": "exhausted", "retry_count": letter.retry_count, "max_retries": 3, "from_agent": "tester",
        "session_id": "s1", "correlation_id": "c1", "owner": letter.owner,
    }  # fmt: skip
    assert expected.items() <= notice.content.items()
    known = await bus.rooms.broker.execute("SMEMBERS", addresses(bus.settings.prefix))
    assert CHANNEL.encode() in known
    assert (await ledger(bus, CHANNEL))["added:log"] == 1


async def test_each_letter_is_announced_once_by_any_number_of_workers_who_all_look_at_once(bus: Bus) -> None:
    ids = await make_dead(bus, "a", *range(250)) + await make_dead(bus, "b", *range(30))
    # Each of them believes to be alone, so that all do the same.
    await asyncio.gather(*(role(bus, f"w{number}").look_around() for number in range(5)))
    await role(bus).look_around()
    assert sorted(await announced(bus)) == sorted(ids)
    ids += await make_dead(bus, "a", 1)
    await asyncio.gather(*(role(bus, f"w{number}").look_around() for number in range(5)))
    assert sorted(await announced(bus)) == sorted(ids)


async def test_a_letter_that_left_before_anybody_looked_is_announced_all_the_same(bus: Bus) -> None:
    retried, resolved, dropped, stays = await make_dead(bus, "r", 1, 2, 3, 4)
    await bus.dead_letters.retry(retried)
    await bus.dead_letters.resolve(resolved, "done")
    await bus.dead_letters.drop(dropped)
    await role(bus).look_around()
    await role(bus).look_around()
    assert await announced(bus) == [retried, resolved, dropped, stays]
    assert {notice.content["type"] for notice in await notices(bus)} == {"task"}
    assert await bus.rooms.broker.execute("XLEN", inbox_keys(bus.settings.prefix, "agent.r").unannounced) == 0
    # What was announced leaves nothing behind when it goes.
    await asyncio.sleep(0.002)
    (late,) = await make_dead(bus, "r", 5)
    await role(bus).look_around()
    await bus.dead_letters.drop(stays)
    assert (await announced(bus))[-1] == late
    assert await bus.rooms.broker.execute("XLEN", inbox_keys(bus.settings.prefix, "agent.r").unannounced) == 0


async def test_many_that_left_unannounced_are_announced_in_bounded_steps(bus: Bus) -> None:
    ids = await make_dead(bus, "r", *range(350))
    for id in ids[::2]:
        await bus.dead_letters.drop(id)
    await role(bus).look_around()
    assert await announced(bus) == ids


async def test_a_worker_that_died_after_announcing_leaves_nothing_that_stays(bus: Bus) -> None:
    (id,) = await make_dead(bus, "r", 1)
    await bus.dead_letters.drop(id)
    board = NoticeBoard(bus.rooms.broker, bus.settings.prefix)
    cursors = channel_keys(bus.settings.prefix, CHANNEL).cursors
    await bus.rooms.broker.execute("HSET", cursors, "agent.r", id.partition(":")[2])
    (look,) = (await board.look(["agent.r"])).letters
    assert look.oldest_ms is not None
    await role(bus).look_around()
    assert await announced(bus) == []
    (look,) = (await board.look(["agent.r"])).letters
    assert look.oldest_ms is None


async def test_failures_of_the_readers_of_notices_are_not_announced(bus: Bus) -> None:
    ids = await make_dead(bus, "r", "mine")
    lane = inbox_keys(bus.settings.prefix, "agent.r").sources[3]
    text = {"message_id": "n", "message_type": "dlq", "channel": CHANNEL, "body": {"content": 1}}
    await bus.rooms.broker.execute("XADD", lane, "*", "message", json.dumps(text))
    await bury_all(bus, "r", 1)
    await role(bus).look_around()
    await role(bus).look_around()
    assert await announced(bus) == ids


async def test_a_malformed_letter_is_announced_too(bus: Bus) -> None:
    await bus.publish("agent.r.task", 1)
    lane = inbox_keys(bus.settings.prefix, "agent.r").sources[3]
    await bus.rooms.broker.execute("XADD", lane, "*", b"\xff", b"\x00")
    ids = await bury_all(bus, "r", 2, "malformed")
    await role(bus).look_around()
    assert await announced(bus) == ids
    assert (await notices(bus))[1].content["message_id"] is None


async def test_a_running_worker_announces_within_seconds_and_goes_on_where_it_was(bus: Bus) -> None:
    async with working(bus, Dead):
        first = await make_dead(bus, "r", 1)
        await eventually(lambda: announced(bus), 10.0)
    more = await make_dead(bus, "r", 2, 3)
    async with working(bus, Dead) as roles:

        async def all_of_them() -> bool:
            return await announced(bus) == first + more

        await eventually(all_of_them, 10.0)
        await eventually(lambda: roles["dead"].report.lag_ms == 0, 10.0)


@pytest.mark.parametrize("spoilt", ["dead", "unannounced", "policy"])
async def test_one_spoilt_address_does_not_keep_the_others_from_being_announced(
    bus: Bus, spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "r", "z"):
        await make_dead(bus, name, 1)
    key = getattr(inbox_keys(bus.settings.prefix, "agent.r"), spoilt)
    await bus.rooms.broker.execute("DEL", key)
    await bus.rooms.broker.execute("SET", key, "of another type")
    dead = role(bus)
    await dead.look_around()
    assert {id.partition(":")[0] for id in await announced(bus)} >= {"agent.a", "agent.z"}
    await dead.look_around()
    assert "WRONGTYPE" in dead.report.last_error
    told = [record for record in caplog.records if "agent.r: WRONGTYPE" in record.getMessage()]
    assert len(told) == 1, "said once, not with each pass"


# --- the cap ---


async def test_nine_tenths_of_the_cap_raise_one_alarm_until_it_is_over(bus: Bus) -> None:
    await bus.declare("agent.r", Policy(dead_limit=10))
    ids = await make_dead(bus, "r", *range(8))
    dead = role(bus)
    await dead.look_around()
    assert bus.events.counts["dead_letters_filling"] == 0
    ids += await make_dead(bus, "r", 8)
    for _ in range(3):
        await dead.look_around()
    assert bus.events.counts["dead_letters_filling"] == 1
    for id in ids[:3]:
        await bus.dead_letters.drop(id)
    await dead.look_around()
    await make_dead(bus, "r", *range(3))
    await dead.look_around()
    assert bus.events.counts["dead_letters_filling"] == 2


# --- a policy that retries ---


async def states(bus: Bus) -> list[Any]:
    lane = inbox_keys(bus.settings.prefix, "agent.r").sources[3]
    return [json.loads(flat[3]) for _, flat in await bus.rooms.broker.execute("XRANGE", lane, "-", "+")]


async def test_a_policy_retries_dead_letters_as_often_as_it_says(bus: Bus) -> None:
    await bus.declare("agent.r", Policy(dead_retries=2, dead_retry_delay="1ms"))
    await make_dead(bus, "r", 1)
    for number in (1, 2):
        await asyncio.sleep(0.005)
        await role(bus).look_around()
        view = await bus.inspect("r")
        assert (view.waiting, view.dead) == (1, 0), f"retry {number}"
        await bury_all(bus, "r", 1)
    await asyncio.sleep(0.005)
    await role(bus).look_around()
    view = await bus.inspect("r")
    assert (view.waiting, view.dead, view.ledger.moves["redriven"], view.ledger.closes) == (0, 1, 2, True)
    (letter,) = await bus.dead_letters.list("r")
    assert letter.retries == 2 and len(await notices(bus)) == 3


async def test_another_policy_decides_anew_about_letters_that_were_left_alone(bus: Bus) -> None:
    await make_dead(bus, "r", 1)
    await bus.declare("agent.r", Policy(dead_retries=1, dead_retry_delay="1ms"))
    dead = role(bus)
    await asyncio.sleep(0.005)
    await dead.look_around()
    await bury_all(bus, "r", 1)
    await asyncio.sleep(0.005)
    await dead.look_around()
    assert (await bus.inspect("r")).dead == 1
    stored = inbox_keys(bus.settings.prefix, "agent.r").policy
    await bus.rooms.broker.execute("HSET", stored, "dead_retries", 2)
    await dead.look_around()
    assert (await bus.inspect("r")).dead == 0


async def test_without_a_policy_and_before_its_time_nothing_is_retried(bus: Bus) -> None:
    await make_dead(bus, "r", 1)
    await bus.declare("agent.s", Policy(dead_retries=1))
    await make_dead(bus, "s", 1)
    await bus.declare("agent.t", Policy(dead_retries=1, dead_retry_delay="1ms"))
    await make_dead(bus, "t", 1, reason="rejected")
    await asyncio.sleep(0.005)
    await role(bus).look_around()
    assert Counter([(await bus.inspect(name)).dead for name in "rst"]) == {1: 3}


async def test_five_workers_retry_each_letter_once_in_its_time(bus: Bus) -> None:
    await bus.declare("agent.r", Policy(dead_retries=1, dead_retry_delay="1ms"))
    await make_dead(bus, "r", *range(250))
    await asyncio.sleep(0.005)
    await asyncio.gather(*(role(bus, f"w{number}").look_around() for number in range(5)))
    view = await bus.inspect("r")
    assert (view.waiting, view.dead, view.ledger.closes) == (250, 0, True)
    assert len(await announced(bus)) == 250
