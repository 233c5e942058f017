"""Conversations that go round and round end, visibly, and nobody else's do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import (
    Agent,
    Bus,
    BusSettings,
    Event,
    LoopDetected,
    Message,
    Policy,
    RequestFailed,
    Stored,
)
from agentbus.broker.keys import channel_keys
from agentbus.message.codec import decode
from agentbus.message.current import handling
from agentbus.send.batch import freeze
from agentbus.send.envelope import Sender, compose
from agentbus.send.stored import Waiting
from agentbus.send.verdicts import verdicts
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    """A bus with keys of its own: the log of errors is everybody's."""
    async with Bus(broker.url, agent="starter", settings=BusSettings(prefix=unique("loops"))) as opened:
        yield opened


async def notices(bus: Bus) -> list[Message]:
    """Return what `agentbus tail system.errors` would show."""
    log = channel_keys(bus.settings.prefix, "system.errors").log
    entries = await bus.rooms.broker.execute("XRANGE", log, "-", "+")
    return [decode(dict(zip(flat[::2], flat[1::2], strict=True))[b"message"]) for _, flat in entries]


def answering(name: str, other: str, bus: Bus, seen: list[Message]) -> Agent:
    """Return an agent that sends whatever it gets on to another one."""
    agent = Agent(name)

    @agent.on("talk")
    async def talk(message: Message) -> None:
        seen.append(message)
        await bus.publish(f"agent.{other}.talk", message.content)

    return agent


async def test_two_agents_that_answer_each_other_for_ever_stop_and_other_conversations_go_on(
    bus: Bus,
) -> None:
    seen: list[Message] = []
    events: list[Event] = []
    bus.events.listen(events.append)
    async with bus.serving(answering("ping", "pong", bus, seen), answering("pong", "ping", bus, seen)):
        await bus.publish("agent.ping.talk", "for ever", correlation_id="round")
        await eventually(lambda: Look(bus, "ping").dead_reasons())
        # Twenty from each, and the first one.
        assert [message.hops for message in seen] == list(range(41))
        await bus.publish("agent.ping.talk", "another", correlation_id="other")
        await eventually(lambda: sum(message.correlation_id == "other" for message in seen) == 41)
        await eventually(lambda: _letters(Look(bus, "ping"), 2))
    letters = await Look(bus, "ping").dead()
    assert {letter["reason"] for letter in letters} == {b"loop"}
    assert b"loop_messages" in letters[0]["detail"]
    told = await notices(bus)
    assert [message.message_type for message in told] == ["loop", "loop"]
    body = told[0].content
    assert (body["reason"], body["correlation_id"], told[0].correlation_id) == ("loop", "round", "round")
    assert [event.action for event in events].count("loop") == 2


async def test_hops_end_a_chain_that_no_pair_would_end(bus: Bus) -> None:
    await bus.declare("agent.self", Policy(loop_messages=0))
    seen: list[Message] = []
    async with bus.serving(answering("self", "self", bus, seen)):
        await bus.publish("agent.self.talk", 1)
        (letter,) = await eventually(lambda: Look(bus, "self").dead())
    assert max(message.hops for message in seen) == 64
    assert letter["reason"] == b"loop"
    assert b"hop 65" in letter["detail"] and b"max_hops" in letter["detail"]


async def test_a_pipeline_of_fifty_steps_passes(bus: Bus) -> None:
    arrived: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stage(number: int) -> Agent:
        agent = Agent(f"stage-{number}")

        @agent.on("step")
        async def step(message: Message) -> None:
            if message.content == 50:
                arrived.set_result(message.hops)
            else:
                await bus.publish(f"agent.stage-{(number + 1) % 5}.step", message.content + 1)

        return agent

    async with bus.serving(*map(stage, range(5))):
        await bus.publish("agent.stage-0.step", 0)
        assert await asyncio.wait_for(arrived, 20) == 50
    assert await notices(bus) == []


async def test_many_agents_that_share_a_bus_and_answer_once_each_are_no_loop(bus: Bus) -> None:
    def reviewer(number: int) -> Agent:
        agent = Agent(f"reviewer-{number}")

        @agent.on("channel.project.question")
        async def answer(body: Any) -> None:
            await bus.publish("agent.planner.objection", number)

        return agent

    async with bus.serving(*map(reviewer, range(25))):
        await bus.publish("channel.project.question", "any objections?")
        await eventually(lambda: _waiting(Look(bus, "planner"), 25))
    assert bus.events.counts["loop"] == 0


async def _waiting(look: Look, count: int) -> bool:
    return await look.waiting() == count


async def test_limits_are_a_matter_of_policy(bus: Bus) -> None:
    await bus.declare("agent.few", Policy(loop_messages=2, loop_window="1h"))
    await bus.declare("agent.few.many", Policy(loop_messages=0))
    await bus.declare("agent.few.near", Policy(max_hops=1))
    await bus.declare("channel.few", Policy(loop_messages=3))
    results: dict[str, list[Any]] = {}
    agent = Agent("sender")

    @agent.on("task")
    async def handle(message: Message) -> None:
        if message.content == "near":
            await bus.publish("agent.sender.task", "nearer")
        elif message.content == "nearer":
            results["near"] = await bus.publish_many("agent.few.near", [1])
        else:
            results["task"] = await bus.publish_many("agent.few.task", [1, 2, 3, 4])
            results["many"] = await bus.publish_many("agent.few.many", range(50))
            results["channel"] = await bus.publish_many("channel.few.note", range(4))

    async with bus.serving(agent):
        await bus.publish("agent.sender.task", "wide")
        await bus.publish("agent.sender.task", "near")
        await eventually(lambda: len(results) == 4)
    assert kinds(results["task"]) == [Stored, Stored, LoopDetected, LoopDetected]
    assert kinds(results["many"]) == [Stored] * 50
    assert kinds(results["channel"]) == [Stored] * 3 + [LoopDetected]
    (near,) = results["near"]
    assert isinstance(near, LoopDetected) and (near.hops, near.address) == (2, "agent.few")
    error = results["task"][2]
    assert "sender has sent it 2 messages" in str(error) and "within 1h" in str(error)
    # One notice for each address and conversation, however many messages were refused.
    assert sorted(message.content["address"] for message in await notices(bus)) == [
        "agent.few", "agent.few", "channel.few",
    ]  # fmt: skip


def kinds(results: list[Any]) -> list[type]:
    return [type(result) for result in results]


async def test_no_window_holds_more_than_the_limit_wherever_it_begins(bus: Bus) -> None:
    """One message, the others at the end of its window, and from then on whatever passes."""
    most, window = 4, 400
    await bus.declare("agent.few", Policy(loop_messages=most, loop_window="400ms"))
    agent = Agent("sender")
    passed: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    @agent.on("task")
    async def handle(message: Message) -> None:
        times = [await _sent_at(bus)]
        while await _now(bus) < times[0] + window * 3 // 4:
            await asyncio.sleep(0.005)
        while len(times) < 3 * most:
            try:
                times.append(await _sent_at(bus))
            except LoopDetected:
                await asyncio.sleep(0.005)
        passed.set_result(times)

    async with bus.serving(agent):
        await bus.publish("agent.sender.task", 1)
        times = await asyncio.wait_for(passed, 20)
    windows = [later - earlier for earlier, later in zip(times, times[most:], strict=False)]
    assert min(windows) >= window
    assert bus.events.counts["loop"] > 0


async def _sent_at(bus: Bus) -> int:
    """Send one message; returns when the server stored it, in ms."""
    entry_id = (await bus.publish("agent.few.task", 1)).entry_id
    assert entry_id is not None
    return int(entry_id.partition("-")[0])


async def _now(bus: Bus) -> int:
    seconds, microseconds = map(int, await bus.rooms.broker.execute("TIME"))
    return seconds * 1000 + microseconds // 1000


async def test_a_policy_that_allows_much_makes_no_long_lists(bus: Bus) -> None:
    await bus.declare("agent.many", Policy(loop_messages=1000, loop_window="1h"))
    keys, now = Look(bus, "many").keys, await _now(bus)
    buckets = (keys.loops_even, keys.loops_odd)
    sent = " ".join(f"{now - 100 + number}:9" for number in range(100))
    for key in buckets:
        await bus.rooms.broker.execute("HSET", key, "sender/c", sent)
    with handling(Message({"message_id": "m", "message_type": "task", "correlation_id": "c"}), "sender"):
        for number in range(100):
            await bus.publish("agent.many.task", number)
        with pytest.raises(LoopDetected):
            await bus.publish("agent.many.task", "one more")
    both = [await bus.rooms.broker.execute("HGET", key, "sender/c") for key in buckets]
    # One time for all hundred: they came within a hundredth of the window.
    assert sorted(len(times.split()) for times in both) == [100, 101]
    assert max(both, key=len).endswith(b":100")


async def test_an_asker_is_told_of_a_loop(bus: Bus) -> None:
    await bus.declare("agent.few", Policy(loop_messages=1))
    agent = Agent("relay")

    @agent.on("question")
    async def handle(body: Any) -> Any:
        for _ in range(2):
            await bus.publish("agent.few.task", 1)

    async with bus.serving(agent):
        with pytest.raises(RequestFailed, match="do agents answer each other for ever") as failed:
            await bus.request("agent.relay.question", 1, timeout="10s")
    assert failed.value.reason == "loop"


async def test_what_comes_over_the_limit_by_another_door_is_a_dead_letter(bus: Bus) -> None:
    agent, seen = Agent("door"), []

    @agent.on("task")
    async def handle(message: Message) -> None:
        seen.append(message.hops)

    lane = Look(bus, "door").keys.sources[3]
    for hops in (64, 70, -1, "many"):
        envelope = json.dumps({"message_id": f"m-{hops}", "message_type": "task", "hops": hops})
        await bus.rooms.broker.execute("XADD", lane, "*", "message", envelope)
    async with bus.serving(agent):
        await eventually(lambda: seen)
        await eventually(lambda: _letters(Look(bus, "door"), 3))
    assert seen == [64]
    assert sorted(await Look(bus, "door").dead_reasons()) == ["loop", "malformed", "malformed"]


async def _letters(look: Look, count: int) -> bool:
    return len(await look.dead_reasons()) == count


async def test_a_batch_whose_answer_was_lost_is_refused_as_before_and_counted_once(bus: Bus) -> None:
    message = Message({"message_id": "m", "message_type": "task", "correlation_id": "c"})
    with handling(message, "sender"):
        parts = [compose(Sender(), "agent.few.task", number, {}, 1_000_000) for number in range(22)]
    loop = asyncio.get_running_loop()
    batch = freeze([Waiting(part, 0.0, loop.create_future()) for part in parts])
    inbox = Look(bus, "few").inbox
    answers = [
        await inbox.publish("p", 1, batch.lanes, batch.options, batch.texts, (60_000, 1000, 60_000))
        for _ in range(2)
    ]
    assert [answer.kind for answer in answers] == ["stored", "recovered"]
    for answer in answers:
        refused = [each for each in verdicts(batch, answer, 1000) if not isinstance(each, Stored)]
        assert kinds(refused) == [LoopDetected] * 2
    counts = [
        await bus.rooms.broker.execute("HGET", key, "sender/c")
        for key in (inbox.keys.loops_even, inbox.keys.loops_odd)
    ]
    assert [count.split(b":")[1] for count in counts if count] == [b"20"]


async def test_what_is_sent_outside_of_handlers_is_never_counted(bus: Bus) -> None:
    await bus.declare("agent.few", Policy(loop_messages=1, max_hops=1))
    for _ in range(3):
        await bus.publish("agent.few.task", 1, correlation_id="c", ttl="1h")
    keys = Look(bus, "few").keys
    assert await bus.rooms.broker.execute("EXISTS", keys.loops_even, keys.loops_odd) == 0


async def test_counters_expire_whole(bus: Bus) -> None:
    agent, done = Agent("sender"), asyncio.Event()

    @agent.on("task")
    async def handle(message: Message) -> None:
        await bus.publish("agent.few.task", 1)
        done.set()

    async with bus.serving(agent):
        await bus.publish("agent.sender.task", 1)
        await asyncio.wait_for(done.wait(), 10)
    keys = Look(bus, "few").keys
    lives = [await bus.rooms.broker.execute("PTTL", key) for key in (keys.loops_even, keys.loops_odd)]
    assert 60_000 < max(lives) <= 120_000
    assert min(lives) == -2
