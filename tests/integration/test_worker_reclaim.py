"""Role reclaim: the work of the dead comes back, the living keep theirs, whatever stands still."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from agentbus import Agent, AgentSettings, Bus, BusSettings
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.inbox_care import FATAL_CRASHES
from agentbus.message.reply_address import Wants
from agentbus.receive.lease import clock
from agentbus.receive.takeover import Judge, Takeover
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays
from tests.service import working
from workers.reclaim import Reclaim

Unique = Callable[[str], str]
LEASE = 2.0


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="tester", settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


async def _hold(bus: Bus, name: str, count: int, consumer: str = "dead") -> Look:
    """Publish some messages and hand them to a consumer that will never beat."""
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(count))
    await look.inbox.join(consumer)
    assert len(await look.inbox.fetch(consumer, count, 1 << 20)) == count
    return look


async def _gone(look: Look, consumer: str = "dead") -> bool:
    return consumer not in await look.alive() and consumer not in await look.group_consumers()


@asynccontextmanager
async def beating(look: Look, consumer: str) -> AsyncIterator[None]:
    """Keep a consumer alive, and nothing else."""

    async def beat() -> None:
        while True:
            await look.broker.execute(*look.inbox.beat(consumer, 0, "serving").by_text())
            await asyncio.sleep(0.3)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


async def test_work_of_the_dead_comes_back_where_nobody_else_serves(bus: Bus) -> None:
    look = await _hold(bus, "a", 3)
    begun = clock()
    async with working(bus, Reclaim, lease=LEASE) as roles:
        await eventually(lambda: _gone(look), 15)
        assert clock() - begun >= LEASE
        assert await look.waiting() == 3
        assert await look.count("reclaimed") == 3
        assert roles["reclaim"].report.lag_ms is not None
    await look.check_balance()


async def test_a_consumer_that_beats_keeps_what_it_holds(bus: Bus) -> None:
    look = await _hold(bus, "a", 1, "busy")
    dead = await _hold(bus, "b", 1)
    async with beating(look, "busy"), working(bus, Reclaim, lease=LEASE, strangers=0.2):
        await eventually(lambda: _gone(dead), 15)
        assert await look.pending("busy") == 1
        assert await look.count("reclaimed") == 0


async def test_a_consumer_is_given_the_lease_it_asked_for(bus: Bus) -> None:
    """Its handlers may stop its beats for longer than the workers' own lease."""
    look, dead = Look(bus, "slow"), await _hold(bus, "b", 1)
    async with bus.serving(Agent("slow", settings=AgentSettings(lease=60.0))):
        (beat,) = (await look.alive()).values()
        assert beat.endswith(" serving 60000")
    await look.inbox.join("mute", 60_000)
    async with working(bus, Reclaim, lease=LEASE):
        await eventually(lambda: _gone(dead), 15)
        assert "mute" in await look.alive()


async def test_a_name_that_left_with_work_is_relieved_of_it_and_goes(bus: Bus) -> None:
    look = await _hold(bus, "a", 2, "hasty")
    assert await look.inbox.leave("hasty") == 2
    async with working(bus, Reclaim, strangers=0.2):
        await eventually(lambda: _gone(look, "hasty"))
        assert await look.waiting() == 2
    await look.check_balance()


async def test_a_consumer_that_is_gone_and_holds_nothing_is_removed(bus: Bus) -> None:
    look = await _hold(bus, "a", 1, "gone")
    (held,) = await look.inbox.held_ids("gone")
    await look.inbox.settle("gone", "processed", {held[0]: (held[1],)})
    await bus.rooms.broker.execute("HDEL", look.keys.alive, "gone")
    assert await look.group_consumers() == {"gone"}
    async with working(bus, Reclaim, strangers=0.2):
        await eventually(lambda: _gone(look, "gone"))


async def test_three_deaths_make_a_dead_letter_and_the_asker_is_told(bus: Bus) -> None:
    """Deaths count whoever sees them: here two were seen by a subscriber's patrol."""
    look, told = Look(bus, "a"), []
    replies = bus.rooms.replies
    await replies.start()
    reply_to = replies.expect(Wants.ONE, lambda reply: bool(told.append(reply.message) or True))
    await bus.publish("agent.a.question", 1, reply_to=reply_to)
    try:
        for death in range(FATAL_CRASHES):
            consumer = f"c{death}"
            await look.inbox.join(consumer)

            async def handed(consumer: str = consumer) -> bool:
                entries = await look.inbox.fetch(consumer, 1, 1 << 20)
                for entry in entries:
                    await look.inbox.mark_started(consumer, entry)
                return bool(entries)

            await eventually(handed)
            if death < FATAL_CRASHES - 1:
                assert await look.inbox.reclaim(consumer, (await look.alive())[consumer]) is not None
        async with working(bus, Reclaim, lease=LEASE):
            await eventually(lambda: told)
        assert (told[0].message_type, told[0].content["reason"]) == ("failure", "crashed")
        # In the agent's name: who collects the answers of many waits for it.
        assert told[0].from_agent == "a"
        assert await look.dead_reasons() == ["crashed"]
        assert bus.events.counts["dead_letter"] == 1
    finally:
        replies.forget(reply_to)


async def test_eight_reclaimers_take_each_message_once_and_the_losers_are_told(bus: Bus) -> None:
    look = await _hold(bus, "a", 1_000)
    beat = (await look.alive())["dead"]
    told: list[int] = []

    async def race() -> None:
        step = await look.inbox.reclaim("dead", beat)
        told.append(-1 if step is None else step.moved)
        while step is not None and step.more:
            step = await look.inbox.reclaim("dead", "")
            told.append(0 if step is None else step.moved)

    await asyncio.gather(*[race() for _ in range(8)])
    assert told.count(-1) == 7
    assert sum(moved for moved in told if moved > 0) == 1_000
    assert await look.waiting() == 1_000
    assert await look.count("reclaimed") == 1_000
    await look.check_balance()


async def test_eight_workers_that_look_at_once_double_nothing(bus: Bus) -> None:
    """Whole roles race here, with their shares not agreed yet."""
    looks = [await _hold(bus, f"a{n}", 20) for n in range(5)]

    async def tell_dead(*_: object) -> None: ...

    judge = Judge(0.3, clock)
    takeovers = [[Takeover(look.inbox, judge, tell_dead) for look in looks] for _ in range(8)]

    async def patrol(watches: list[Takeover]) -> int:
        moved = 0
        for watch, look in zip(watches, looks, strict=True):
            asked_at = clock()
            beats = await look.inbox.beats()
            if judge.sound(asked_at):
                moved += await watch.take(watch.look(beats, clock()), clock())
            strangers = await look.inbox.strangers()
            moved += await watch.take_from_strangers(strangers)
        return moved

    moved = 0
    end = clock() + 10
    while moved < 100 and clock() < end:
        moved += sum(await asyncio.gather(*[patrol(watches) for watches in takeovers]))
        await asyncio.sleep(0.05)
    assert moved == 100
    for look in looks:
        assert await look.count("reclaimed") == 20
        assert await look.waiting() == 20
        await look.check_balance()


async def test_a_verdict_that_has_become_old_is_not_carried_out(bus: Bus) -> None:
    look = await _hold(bus, "a", 1)

    async def tell_dead(*_: object) -> None: ...

    takeover = Takeover(look.inbox, Judge(LEASE, clock), tell_dead)
    beats = list((await look.alive()).items())
    assert await takeover.take(beats, clock() - 1.0) == 0
    assert await look.pending("dead") == 1
    assert await takeover.take(beats, clock()) == 1


async def test_a_worker_whose_own_beats_are_not_accepted_judges_nobody(bus: Bus) -> None:
    look = await _hold(bus, "a", 1)
    async with working(bus, Reclaim, lease=0.5, beat=60.0) as roles:
        # Its first beat counts for a while; then it has no right to judge until it beats again.
        ground = roles["reclaim"].ground
        assert ground.standing.beat_at is not None
        ground.standing.beat_answered(clock() - 3.0)
        await stays(lambda: _pending(look, 1), 2.0)

        async def taken_while_it_beats() -> bool:
            # Again and again: on a slow machine one beat is over before the lease has been watched.
            ground.standing.beat_answered(clock())
            return await _pending(look, 0)

        await eventually(taken_while_it_beats)


async def _pending(look: Look, count: int) -> bool:
    return await look.pending("dead") == count


async def test_a_server_that_stands_still_for_longer_than_a_lease_costs_nobody_anything(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="tester") as bus, working(bus, Reclaim, lease=LEASE, strangers=0.2):
        look = await _hold(bus, "a", 3, "living")
        async with beating(look, "living"):
            await stays(lambda: _held(look, 3), LEASE)
        # The role sees the last beat once before everything stops.
        await stays(lambda: _held(look, 3), 0.8)
        server.pause()
        await asyncio.sleep(2 * LEASE)
        server.resume()
        # The consumers need a moment to connect again; nobody may have judged them before.
        await stays(lambda: _held(look, 3), 0.7)
        async with beating(look, "living"):
            await stays(lambda: _held(look, 3), 1.5 * LEASE)
        assert await look.count("reclaimed") == 0
        assert "living" in await look.alive()
        await look.check_balance()


async def test_a_reclaimer_that_stood_still_itself_judges_nobody_for_a_lease(bus: Bus) -> None:
    """Frozen together with the consumers (a paused container), it wakes before they have beaten again."""
    async with working(bus, Reclaim, lease=LEASE, strangers=0.2):
        look = await _hold(bus, "a", 3, "living")
        async with beating(look, "living"):
            await stays(lambda: _held(look, 3), LEASE)
        # The whole loop stands still, and with it everything that runs in it.
        time.sleep(1.5 * LEASE)  # noqa: ASYNC251
        await stays(lambda: _held(look, 3), 0.7)
        async with beating(look, "living"):
            await stays(lambda: _held(look, 3), LEASE)
        assert await look.count("reclaimed") == 0


async def _held(look: Look, count: int) -> bool:
    return await look.pending() == count


async def test_hand_made_entries_of_an_address_nobody_serves_are_listed(bus: Bus) -> None:
    look = Look(bus, "a")
    await bus.publish("agent.a.task", 0)
    text = json.dumps({"message_id": "m", "message_type": "task"})
    await bus.rooms.broker.execute("XADD", look.keys.sources[1], "*", "message", text)
    async with working(bus, Reclaim, sweep=0.2):

        async def listed() -> bool:
            names = await bus.rooms.broker.execute("ZRANGE", look.keys.lanes, 0, -1)
            return names == [b"critical", b"normal"]

        await eventually(listed)
        assert await look.count("handmade") == 1


async def test_one_spoilt_address_does_not_keep_the_others_from_being_looked_at(bus: Bus) -> None:
    await bus.publish("agent.spoilt.task", 1)
    await bus.rooms.broker.execute("SET", Look(bus, "spoilt").keys.alive, "of another type")
    look = await _hold(bus, "good", 1)
    async with working(bus, Reclaim, lease=LEASE, strangers=0.2) as roles:
        await eventually(lambda: _gone(look), 15)
        assert "WRONGTYPE" in roles["reclaim"].report.last_error


async def test_the_role_goes_on_after_everything_was_deleted(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="tester") as bus, working(bus, Reclaim, lease=LEASE, strangers=0.2):
        await _hold(bus, "a", 1)
        await bus.rooms.broker.execute("FLUSHALL")
        look = await _hold(bus, "b", 2)
        # Publishing again notes the address again; the old note went with everything else.
        await bus.rooms.broker.execute("SADD", f"{bus.settings.prefix}:addresses", "agent.b")
        await bus.rooms.broker.execute("DEL", look.keys.sources[2])
        await eventually(lambda: _gone(look), 15)
        assert await look.waiting() == 2
