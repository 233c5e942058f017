"""Entries that agentbus did not write: the reader lives, and what they contained is kept."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentbus import Agent, Bus, Delivery, Message, Retry
from agentbus.broker.keys import channel_keys
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually

Unique = Callable[[str], str]

GOOD = json.dumps({"message_id": "by-hand", "message_type": "task", "body": {"content": "by hand"}}).encode()


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="tester") as opened:
        yield opened


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


def failing(name: str, ran: list[Any]) -> Agent:
    """An agent that fails everything twice: retries and dead letters pass through every script."""
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.001))

    @agent.on()
    async def handle(body: Any, delivery: Delivery) -> None:
        ran.append(body)
        if body != "probe":
            raise ValueError("as always")

    return agent


CORPUS: dict[str, list[bytes]] = {
    "no field of ours": [b"a", b"1"],
    "empty names and values": [b"", b""],
    "message is not json": [b"message", b"hello"],
    "message is not utf-8": [b"message", b"\xff\xfe\x00"],
    "message is a list": [b"message", b"[1,2,3]"],
    "message is a number": [b"message", b"12"],
    "message is null": [b"message", b"null"],
    "message is empty": [b"message", b""],
    "deep nesting": [b"message", b"[" * 100_000],
    "an integer of 5,000 digits": [b"message", b'{"message_id":' + b"9" * 5000 + b"}"],
    "NaN": [b"message", b'{"message_id":NaN}'],
    "no message id": [b"message", b'{"message_type":"task"}'],
    "message id is a number": [b"message", b'{"message_id":1,"message_type":"task"}'],
    "no type": [b"message", b'{"message_id":"x"}'],
    "unknown version": [b"message", b'{"version":99,"message_id":"x","message_type":"task"}'],
    "unknown priority": [b"message", b'{"message_id":"x","message_type":"t","priority":"soon"}'],
    "body is text": [b"message", b'{"message_id":"x","message_type":"t","body":"text"}'],
    "bad base64": [
        b"message",
        b'{"message_id":"x","message_type":"t","body":{"content":"%%","content_encoding":"base64"}}',
    ],
    "reply_to is a list": [b"message", b'{"message_id":"x","message_type":"t","reply_to":[]}'],
    "a field name of a megabyte": [b"n" * 1_000_000, b"v"],
    "a value of a megabyte": [b"other", b"\x00" * 1_000_000],
    "five thousand fields": [part for n in range(5000) for part in (b"f%d" % n, b"v")],
    "message among others": [b"a", b"1", b"message", b"nope", b"b", b"2"],
}


@pytest.mark.parametrize("label", CORPUS)
async def test_a_malformed_entry_becomes_a_dead_letter_with_its_content_and_the_reader_lives(
    bus: Bus, name: str, label: str
) -> None:
    fields, look, ran = CORPUS[label], Look(bus, name), []
    async with bus.serving(failing(name, ran)):
        await bus.rooms.broker.execute("XADD", look.keys.sources[3], "*", *fields)
        (letter,) = await eventually(look.dead)
        await bus.publish(f"agent.{name}.task", "probe")
        await eventually(lambda: "probe" in ran)
    assert letter["reason"] == b"malformed"
    kept = dict(zip(fields[::2], fields[1::2], strict=True))
    if b"message" in kept:
        assert letter["message"] == kept[b"message"]
    else:
        some = list(kept.items())[:100]
        for field, value in some:
            assert letter["raw:" + field.decode(errors="surrogateescape")] == value
    assert ran == ["probe"]
    assert await look.pending() == 0
    assert await look.count("retried") == 0


FIELDS: dict[str, list[Any]] = {
    "recipients": [5, "ann", [5], {}],
    "ttl": ["5s", [], True, -1, 1e308],
}


async def test_an_envelope_written_by_hand_into_a_log_stops_no_subscriber(bus: Bus, unique: Unique) -> None:
    name, channel = unique("reader"), f"channel.{unique('hand')}"
    agent, ran = Agent(name), []

    @agent.on(f"{channel}.note", start="beginning")
    async def handle(message: Message) -> None:
        ran.append((message.content, message.timestamp))

    log = channel_keys(bus.settings.prefix, channel).log
    for field, values in FIELDS.items():
        for value in values:
            envelope = {"message_id": "by-hand", "message_type": "note", field: value}
            await bus.rooms.broker.execute("XADD", log, "*", "message", json.dumps(envelope))
    good = {"message_id": unique("good"), "message_type": "note", "timestamp": "noon", "body": {"content": 1}}
    good |= dict.fromkeys(("recipients", "ttl", "priority", "version", "recipient_mode"))
    await bus.rooms.broker.execute("XADD", log, "*", "message", json.dumps(good))
    told: list[str] = []
    bus.events.listen(lambda event: told.append(event.detail))
    async with bus.serving(agent):
        await eventually(lambda: ran)
    assert ran == [(1, None)]
    # What is no message has nothing to be carried anywhere; it stays where it is, and is told of.
    expected = [field for field, values in FIELDS.items() for _ in values]
    assert [re.search(r"malformed: (\w+):", detail)[1] for detail in told] == expected
    assert (await bus.trace_conversation(good["message_id"], channel)).turns[0].message.content == 1


STATES: dict[str, bytes] = {
    "not json": b"{",
    "a list": b"[1]",
    "a number": b"7",
    "attempt is text": b'{"attempt":"many"}',
    "attempt is null": b'{"attempt":null}',
    "attempt is an object": b'{"attempt":{"a":1}}',
    "attempt is endless": b'{"attempt":1e999}',
    "attempt is not a number": b'{"attempt":NaN}',
    "crashes is text": b'{"crashes":"x"}',
    "crashes is a list": b'{"crashes":[1]}',
    "expires is text": b'{"expires":"soon"}',
    "lane is a number": b'{"lane":5}',
    "lane is an object": b'{"lane":{}}',
    "lane is unknown": b'{"lane":"urgent"}',
    "bounces is text": b'{"bounces":"x"}',
    "a failure that cannot be written again": b'{"first_failure":{"at":NaN}}',
    "a key of the wrong type": b'{"key":[],"digest":{}}',
    "deep": b"[" * 5000,
    "not utf-8": b'{"attempt":"\xff"}',
}


@pytest.mark.parametrize("label", STATES)
async def test_a_state_written_by_hand_keeps_nothing_from_being_settled_or_taken_over(
    bus: Bus, name: str, label: str
) -> None:
    look, ran = Look(bus, name), []
    entry = ("XADD", look.keys.sources[3], "*", "message", GOOD, "state", STATES[label])
    # A dead owner holds it, with another beside it.
    await look.inbox.join("dead")
    await bus.rooms.broker.execute(*entry)
    await bus.rooms.broker.execute("XADD", look.keys.sources[3], "*", "message", GOOD)
    await look.inbox.sweep()
    assert len(await look.inbox.fetch("dead", 2, 1 << 20)) == 2
    step = await look.inbox.reclaim("dead", (await look.alive())["dead"])
    assert step is not None
    assert (step.moved, step.more) == (2, False)
    await bus.rooms.broker.execute(*entry)
    async with bus.serving(failing(name, ran)):

        async def all_dead() -> bool:
            return len(await look.dead()) == 3 and await look.unsettled() == 0

        await eventually(all_dead)
    assert set(await look.dead_reasons()) == {"exhausted"}


async def test_an_entry_with_thousands_of_fields_does_not_keep_a_dead_owners_work(
    bus: Bus, name: str
) -> None:
    look = Look(bus, name)
    await look.inbox.join("dead")
    fields = [part for n in range(6000) for part in (f"f{n}", "v")]
    await bus.rooms.broker.execute("XADD", look.keys.sources[3], "*", *fields)
    await bus.publish(f"agent.{name}.task", "beside it")
    assert len(await look.inbox.fetch("dead", 2, 1 << 20)) == 2
    step = await look.inbox.reclaim("dead", (await look.alive())["dead"])
    assert step is not None
    assert (step.moved, step.more) == (2, False)
    assert await look.pending() == 0


async def test_an_entry_made_by_hand_reaches_a_busy_agent(bus: Bus, name: str) -> None:
    """A plain XADD does not write the index of lanes; an agent that never idles must see it all the same."""
    agent, look, seen, stop = Agent(name, concurrency=1), Look(bus, name), [], False

    @agent.on("task")
    async def handle(body: Any) -> None:
        seen.append(body)
        await asyncio.sleep(0.002)

    async def keep_busy() -> None:
        while not stop:
            if await look.waiting() < 20:
                await bus.publish_many(f"agent.{name}.task", ["flood"] * 50, priority="high")
            await asyncio.sleep(0.005)

    async with bus.serving(agent):
        flooding = asyncio.create_task(keep_busy())
        await eventually(lambda: len(seen) > 30)
        await bus.rooms.broker.execute("XADD", look.keys.sources[1], "*", "message", GOOD)
        await eventually(lambda: "by hand" in seen, 10)
        assert not flooding.done()
        stop = True
        await flooding


ANY_FIELDS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([b"message", b"state"]), st.binary(max_size=20)),
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([GOOD, b"{}", b"[]", b"null", b'{"attempt":-1}', b'{"message_id":"x"}']),
        ),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(ANY_FIELDS, min_size=1, max_size=20))
def test_no_entry_whatever_its_bytes_stops_the_reader_or_stays_in_flight(
    broker: BrokerForTests, entries: list[list[tuple[bytes, bytes]]]
) -> None:
    asyncio.run(_survives(broker.url, entries))


async def _survives(url: str, entries: list[list[tuple[bytes, bytes]]]) -> None:
    name, ran = f"fuzzed-{secrets.token_hex(4)}", []
    async with Bus(url, agent="tester") as bus:
        look = Look(bus, name)
        async with bus.serving(failing(name, ran)):
            for number, pairs in enumerate(entries):
                flat = [part for pair in pairs for part in pair]
                await bus.rooms.broker.execute("XADD", look.keys.sources[number % 6], "*", *flat)

            async def all_dead() -> bool:
                return len(await look.dead()) == len(entries) and await look.unsettled() == 0

            await eventually(all_dead)
