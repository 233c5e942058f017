"""Publishing as a user does, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import pytest
from pydantic import BaseModel

from agentbus.broker.key_catalogue import CATALOGUE
from agentbus.broker.policy_store import PolicyStore
from agentbus.bus import Bus
from agentbus.errors import (
    BodyNotSerializable,
    BodyTooLarge,
    InvalidTopic,
    InvalidValue,
    NoSuchAgent,
    PublisherClosed,
    PublishRefused,
)
from agentbus.message.codec import decode
from agentbus.message.durations import instant_milliseconds
from agentbus.message.policy import PRIORITIES
from agentbus.message.topics import Topic
from agentbus.send.stored import Stored
from agentbus.testing import BrokerForTests
from tests.publishing import PREFIX, inbox_of, look_at, open_office

Unique = Callable[[str], str]


class Review(BaseModel):
    pr: int
    title: str = ""


@dataclass
class Ticket:
    number: int


async def test_the_result_names_the_entry_it_became(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('result')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        stored = await office.publisher.publish(f"{address}.task.urgent", {"text": "hello"}, priority="low")

        [(entry_id, fields)] = await eyes.client.xrange(eyes.keys.sources[4])
        assert stored.entry_id == entry_id.decode()
        assert (stored.address, stored.durability, stored.known, stored.duplicate) == (
            address, "stream", False, False,
        )  # fmt: skip
        message = decode(fields[b"message"])
        assert message.message_id == stored.message_id
        assert (message.message_type, message.from_agent, message.priority) == (
            "task.urgent",
            "tester",
            "low",
        )
        assert message.content == {"text": "hello"}


async def test_every_priority_has_its_lane(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('lanes')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        for priority in reversed(PRIORITIES):
            await office.publisher.publish(f"{address}.task", priority, priority=priority)

        assert await eyes.bodies() == list(PRIORITIES)
        assert {lane.decode() for lane in await eyes.client.zrange(eyes.keys.lanes, 0, -1)} == set(PRIORITIES)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (Review(pr=7), {"pr": 7, "title": ""}),
        (Ticket(3), {"number": 3}),
        ([1, 2.5, None, True, "ü😀"], [1, 2.5, None, True, "ü😀"]),
        (b"\x00\xff", b"\x00\xff"),
        (None, None),
        ("", ""),
        ({"nested": [Review(pr=1)]}, {"nested": [{"pr": 1, "title": ""}]}),
        (2**63 - 1, 2**63 - 1),
    ],
    ids=str,
)
async def test_bodies_arrive_as_they_were_sent(
    broker: BrokerForTests, unique: Unique, body: Any, content: Any
) -> None:
    address = f"agent.{unique('bodies')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", body)

        [(_, fields)] = await eyes.client.xrange(eyes.keys.sources[3])
        assert decode(fields[b"message"]).content == content


async def test_all_publishes_of_one_turn_travel_in_few_calls(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('batch')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        publish = office.publisher.publish
        await asyncio.gather(*(publish(f"{address}.task", number) for number in range(200)))

        assert await eyes.bodies() == list(range(200))
        # One record for all: the last batch began at 1, so there was only this one.
        [record] = await eyes.client.keys(f"{eyes.keys.producer}*")
        assert (await eyes.client.get(record)).split() == [b"1", b"200"]


async def test_batches_are_bounded_in_count_and_bytes(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('bounded')}"
    sizes = [10, 400, 400, 10, 2000, 10, 10, 10, 10, 10, 10]
    async with (
        open_office(broker.url, batch_messages=4, batch_bytes=2500, message_bytes=4000) as office,
        look_at(broker.url, address) as eyes,
    ):
        batches: list[tuple[int, int]] = []
        inbox_publish = type(inbox_of(office, address)).publish

        async def noting(
            self: Any, producer: str, first: int, lanes: str, options: str, texts: Any, limits: Any
        ):  # type: ignore[no-untyped-def]
            batches.append((len(texts), sum(map(len, texts))))
            return await inbox_publish(self, producer, first, lanes, options, texts, limits)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(inbox_of(office, address)), "publish", noting)
            await office.publisher.publish_many(f"{address}.task", ["x" * size for size in sizes])

        assert [len(body) for body in await eyes.bodies()] == sizes
        assert max(count for count, _ in batches) == 4
        assert all(size <= 2500 for count, size in batches if count > 1)
        assert len(batches) >= 4


async def test_publish_many_tells_of_each_what_became_of_it(broker: BrokerForTests, unique: Unique) -> None:
    topic = f"agent.{unique('many')}.task"
    async with open_office(broker.url) as office:
        results = await office.publisher.publish_many(topic, ["same", "same", "other"], key="k")

        assert isinstance(results[0], Stored)
        assert isinstance(results[1], Stored)
        assert results[1].duplicate
        assert "key" in str(results[2])
        assert await office.publisher.publish_many(topic, []) == []


async def test_a_bad_body_in_the_middle_of_many_raises_after_what_was_before_it_is_sent(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('middle')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        with pytest.raises(BodyNotSerializable):
            await office.publisher.publish_many(f"{address}.task", ["a", object(), "c"])

        assert await eyes.bodies() == ["a"]


async def test_known_tells_whether_anybody_ever_served_the_address(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('known')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        with pytest.raises(NoSuchAgent, match=address):
            await office.publisher.publish(f"{address}.task", 1, strict=True)
        assert await eyes.bodies() == []
        assert not (await office.publisher.publish(f"{address}.task", 2)).known

        await inbox_of(office, address).join("somebody")

        assert (await office.publisher.publish(f"{address}.task", 3, strict=True)).known
        assert await eyes.bodies() == [2, 3]


async def test_an_expiry_is_counted_from_acceptance_by_the_servers_clock(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('ttl')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", 1, ttl="10m")

        [(entry_id, fields)] = await eyes.client.xrange(eyes.keys.sources[3])
        state = json.loads(fields[b"state"])
        assert abs(state["expires"] - 600_000 - int(entry_id.split(b"-")[0])) <= 5


async def test_a_delayed_message_waits_outside_the_lanes_and_then_takes_its_own(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('delay')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        stored = await office.publisher.publish(f"{address}.task", "soon", delay="20ms", priority="high")
        later = datetime.now(UTC) + timedelta(hours=1)
        await office.publisher.publish(f"{address}.task", "later", at=later)
        past = await office.publisher.publish(f"{address}.task", "now", at="2020-01-01T00:00:00Z")

        assert stored.entry_id is None
        assert past.entry_id is not None
        assert await eyes.bodies() == ["now"]
        due = dict(await eyes.client.zrange(eyes.keys.due, 0, -1, withscores=True))
        assert due[stored.message_id.encode()] < later.timestamp() * 1000
        assert instant_milliseconds(later, "at") in due.values()
        async with asyncio.timeout(5):
            while (await inbox_of(office, address).promote(60_000)).moved == 0:
                await asyncio.sleep(0.005)
        assert await eyes.bodies() == ["soon", "now"]


async def test_an_expiry_before_the_due_time_is_refused(broker: BrokerForTests, unique: Unique) -> None:
    topic = f"agent.{unique('expires')}.task"
    async with open_office(broker.url) as office:
        with pytest.raises(InvalidValue, match="ttl"):
            await office.publisher.publish(topic, 1, ttl="1s", delay="2s")
        with pytest.raises(PublishRefused, match="ttl"):
            await office.publisher.publish(topic, 1, ttl="1s", at=datetime.now(UTC) + timedelta(hours=1))


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"priority": "urgent"}, "priority"),
    ({"priority": ["high"]}, "priority"),
    ({"priority": None}, "priority"),
    ({"ttl": "soon"}, "ttl"),
    ({"ttl": -1}, "ttl"),
    ({"ttl": 0}, "ttl"),
    ({"ttl": float("nan")}, "ttl"),
    ({"ttl": True}, "ttl"),
    ({"delay": "5 minutes"}, "delay"),
    ({"delay": float("inf")}, "delay"),
    ({"delay": "5s", "at": "2030-01-01T00:00:00Z"}, "delay"),
    ({"at": "tomorrow"}, "at"),
    ({"at": datetime(2030, 1, 1)}, "at"),
    ({"at": 5}, "at"),
    ({"key": ""}, "key"),
    ({"key": 7}, "key"),
    ({"key": "k" * 513}, "key"),
    ({"key": "\ud800"}, "key"),
    ({"durability": "forever"}, "durability"),
    ({"durability": ["disk"]}, "durability"),
    ({"deadline": "never"}, "deadline"),
    ({"retry": 3}, "retry"),
    ({"correlation_id": 5}, "correlation_id"),
    ({"reply_to": b"x"}, "reply_to"),
    ({"context": 5}, "context"),
    ({"context": {"x": object()}}, "context"),
    ({"metadata": [1]}, "metadata"),
    ({"metadata": {1: 2}}, "metadata"),
    ({"trace": 5}, "trace"),
    ({"trace": {"traceparent": object()}}, "trace"),
    ({"extra": 5}, "extra"),
    ({"extra": {"message_id": "mine"}}, "extra"),
    ({"extra": {"recipient_mode": 5}}, "extra"),
    ({"extra": {"ttl": "soon"}}, "extra"),
    ({"extra": {"mine": object()}}, "mine"),
    ({"extra": {5: 5}}, "extra"),
    ({"prority": "high"}, "prority"),
]


@pytest.mark.parametrize(
    ("options", "field"),
    BAD_OPTIONS,
    ids=[f"{field}-{number}" for number, (_, field) in enumerate(BAD_OPTIONS)],
)
async def test_a_bad_option_is_named_and_nothing_is_sent(
    broker: BrokerForTests, unique: Unique, options: dict[str, Any], field: str
) -> None:
    address = f"agent.{unique('bad')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        for publish, body in ((office.publisher.publish, 1), (office.publisher.publish_many, [1])):
            with pytest.raises(InvalidValue) as raised:
                await publish(f"{address}.task", body, **options)
            assert raised.value.field == field
            assert str(raised.value).startswith(f"{field}: ")
        assert not await eyes.client.keys(f"*{{{address}}}*")


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: Any = None
for _ in range(3000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "body",
    [object(), CYCLE, 2**64, -(2**63) - 1, {1: "int key"}, "\ud800", DEEP, float("nan"), [float("inf")],
     {"deep": [{"x": float("-inf")}]}, 1j],
    ids=["object", "cyclic", "huge", "low", "int key", "surrogate", "deep", "nan", "inf", "nested inf",
         "complex"],
)  # fmt: skip
async def test_a_body_that_is_not_json_is_refused(broker: BrokerForTests, unique: Unique, body: Any) -> None:
    async with open_office(broker.url) as office:
        with pytest.raises(BodyNotSerializable) as raised:
            await office.publisher.publish(f"agent.{unique('json')}.task", body)
        assert raised.value.field == "body"


@pytest.mark.parametrize(
    "topic",
    ["", "agent", "agent.x", "agent..task", "agent.x.", "Agent.x.task", "agent.X.task", "agent.{x}.task",
     "agent.x:y.task", "agent.*.task", "agent.x.>", "dm.design.note", "channel.design", "agent.x.task.",
     "agent.-x.task", "agent.x.ta sk", "agent." + "x" * 64 + ".task", "agent.x." + "t" * 201, None, 5,
     b"agent.x.task", [], "agent.x.task\n", "agent.ü.task"],
    ids=repr,
)  # fmt: skip
async def test_a_bad_topic_is_refused(broker: BrokerForTests, topic: Any) -> None:
    async with open_office(broker.url) as office:
        with pytest.raises(InvalidTopic) as raised:
            await office.publisher.publish(topic, 1)
        assert raised.value.field == "topic"


async def test_a_typed_topic_refuses_another_body(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('typed')}"
    topic = Topic(f"{address}.task", Review)
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(topic, Review(pr=1))
        await office.publisher.publish(topic, {"pr": 2})
        for wrong in ({"pr": "seven"}, {}, 5, None, Ticket(1)):
            with pytest.raises(BodyNotSerializable, match="Review"):
                await office.publisher.publish(topic, wrong)

        assert [body["pr"] for body in await eyes.bodies()] == [1, 2]


async def test_the_limit_of_a_message_is_exact(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('limit')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", "")
        [(_, fields)] = await eyes.client.xrange(eyes.keys.sources[3])
        # Times have microseconds, unless they happen to be whole.
        around = len(fields[b"message"]) + 7 * (b"." not in fields[b"message"])
    async with open_office(broker.url, message_bytes=around + 100) as office:
        assert await office.publisher.publish(f"{address}.task", "x" * 100)
        with pytest.raises(BodyTooLarge, match=rf"{around + 101:,} bytes; the limit is {around + 100:,}"):
            for _ in range(3):
                await office.publisher.publish(f"{address}.task", "x" * 101)


async def test_the_default_limit_takes_a_mebibyte_and_refuses_sixty_four_with_the_size(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"agent.{unique('huge')}.task"
    async with open_office(broker.url) as office:
        assert await office.publisher.publish(topic, "x" * (1024 * 1024 - 1000))
        with pytest.raises(BodyTooLarge, match=r"67,10\d,\d\d\d bytes; the limit is 1,048,576"):
            await office.publisher.publish(topic, "x" * (64 * 1024 * 1024))


async def test_whatever_is_written_is_in_the_catalogue_of_keys(
    private_broker: Callable[..., Any], unique: Unique
) -> None:
    server = private_broker()
    address = f"agent.{unique('keys')}"
    async with open_office(server.url) as office, look_at(server.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", 1, key="a", priority="critical")
        await office.publisher.publish(f"{address}.task", 1, key="b", delay="1h")
        await PolicyStore(office.broker, PREFIX).declare(address, "", {"limit": "10"}, {})
        written = [key.decode() for key in await eyes.client.keys("*")]
        types = {key: (await eyes.client.type(key)).decode() for key in written}

    patterns = {
        f"{PREFIX}:" + info.pattern.replace("<address>", address).replace("<priority>", "*")
        .replace("<id>", "*").replace("<bucket>", "*"): info.type
        for info in CATALOGUE
    }  # fmt: skip
    for key, found in types.items():
        matching = [kind for pattern, kind in patterns.items() if fnmatchcase(key, pattern)]
        assert matching == [found], key
    assert len(written) >= 8


async def test_a_closed_publisher_refuses(broker: BrokerForTests, unique: Unique) -> None:
    async with open_office(broker.url) as office:
        await office.publisher.close()
        with pytest.raises(PublisherClosed):
            await office.publisher.publish(f"agent.{unique('closed')}.task", 1)


async def test_closing_sends_what_is_buffered(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('closing')}"
    async with look_at(broker.url, address) as eyes:
        async with open_office(broker.url, batch_messages=10) as office:
            publish = office.publisher.publish
            sending = [asyncio.create_task(publish(f"{address}.task", number)) for number in range(100)]
            await asyncio.sleep(0)
        assert await eyes.bodies() == list(range(100))
        await asyncio.gather(*sending)


async def test_a_bus_publishes_under_its_agents_name(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('bus')}"
    async with Bus(broker.url, agent="planner") as bus, look_at(broker.url, address) as eyes:
        await bus.publish(f"{address}.task", Review(pr=1))

        [(_, fields)] = await eyes.client.xrange(eyes.keys.sources[3])
        assert decode(fields[b"message"]).from_agent == "planner"
