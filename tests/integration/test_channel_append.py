"""Appending to channels: the same promises as publishing to an inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from agentbus.broker.answers import BatchAnswer
from agentbus.broker.channel import Channel
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.keys import ChannelKeys, channel_keys
from agentbus.broker.scripts import load
from agentbus.bus import Bus
from agentbus.errors import (
    InvalidTopic,
    InvalidValue,
    KeyConflict,
    PolicyConflict,
    PublishRefused,
    QueueFull,
    WrongKeyType,
)
from agentbus.message.address_policy import Policy
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.send.stored import Stored
from agentbus.testing import BrokerForTests
from tests.proxy import Proxy
from tests.publishing import PREFIX, once, open_office

Unique = Callable[[str], str]


class Log:
    """Looks at one channel's keys."""

    def __init__(self, client: redis.asyncio.Redis, address: str) -> None:
        self.client = client
        self.keys: ChannelKeys = channel_keys(PREFIX, address)

    async def messages(self) -> list[Message]:
        return [decode(fields[b"message"]) for _, fields in await self.client.xrange(self.keys.log)]

    async def contents(self) -> list[Any]:
        return [message.content for message in await self.messages()]

    async def ledger(self) -> dict[str, int]:
        found = await self.client.hgetall(self.keys.ledger)
        return {name.decode(): int(value) for name, value in found.items()}


@asynccontextmanager
async def look(url: str, address: str) -> AsyncIterator[Log]:
    client = redis.asyncio.Redis.from_url(url)
    try:
        yield Log(client, address)
    finally:
        await client.aclose()


def is_append(request: bytes) -> bool:
    return load("append").digest.encode() in request


@pytest.mark.parametrize("kind", ["channel", "project", "system"])
async def test_a_message_to_a_channel_is_the_last_of_its_log(
    broker: BrokerForTests, unique: Unique, kind: str
) -> None:
    address = f"{kind}.{unique('log')}"
    async with Bus(broker.url, agent="crier") as bus, look(broker.url, address) as log:
        first = await bus.publish(f"{address}.pause", {"why": "lunch"}, priority="high", ttl="1m")
        second = await bus.publish(f"{address}.resume.now", "on")

        entries = [entry.decode() for entry, _ in await log.client.xrange(log.keys.log)]
        assert entries == [first.entry_id, second.entry_id]
        assert (first.address, first.known, first.duplicate) == (address, True, False)
        pause, resume = await log.messages()
        assert (pause.channel, pause.to_agent, pause.message_type) == (address, None, "pause")
        assert (pause.from_agent, pause.priority, pause.ttl) == ("crier", "high", 60)
        assert (resume.message_type, resume.content) == ("resume.now", "on")
        assert await log.ledger() == {"accepted": 2, "added:log": 2}
        assert await log.client.sismember("agentbus:addresses", address)


async def test_a_lost_reply_neither_loses_nor_doubles(broker: BrokerForTests, unique: Unique) -> None:
    address = f"channel.{unique('cut')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url) as office,
        look(broker.url, address) as log,
    ):
        # The server knows the script then, so that the reply that gets lost is that of storing.
        await office.publisher.publish(f"{address}-other.note", "warm")
        proxy.lose_reply = once(is_append)
        results = await office.publisher.publish_many(f"{address}.note", ["a", "b"])

        assert proxy.cuts == 1
        assert all(isinstance(result, Stored) for result in results)
        assert await log.contents() == ["a", "b"]
        assert await log.ledger() == {"accepted": 2, "added:log": 2}


async def test_refusals_of_a_batch_whose_reply_was_lost_are_told_from_the_record(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"channel.{unique('full')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, address_limit=1) as office,
        look(broker.url, address) as log,
    ):
        # The server knows the script then, so that the reply that gets lost is that of storing.
        await office.publisher.publish(f"{address}-other.note", "warm")
        proxy.lose_reply = once(is_append)
        stored, full = await office.publisher.publish_many(f"{address}.note", ["a", "b"])

        assert proxy.cuts == 1
        assert isinstance(stored, Stored)
        assert isinstance(full, QueueFull)
        assert f"the log of {address}" in str(full)
        assert await log.contents() == ["a"]


async def test_positions_that_are_missing_or_late_write_nothing(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"channel.{unique('gap')}"
    connection = Broker(ConnectionSettings(broker.url))
    channel = Channel(connection, PREFIX, address)

    async def send(first: int, *texts: bytes) -> BatchAnswer:
        return await channel.publish("p", first, "2" * len(texts), "", texts, (60_000, 100, 60_000))

    try:
        assert (await send(1, b"{}", b"{}")).kind == "stored"
        assert (await send(1, b"{}", b"{}")).kind == "recovered"
        for first in (1, 2, 4):
            answer = await send(first, b"{}")
            assert (answer.kind, answer.last) == ("gap", 2)
        async with look(broker.url, address) as log:
            assert await log.client.xlen(log.keys.log) == 2
    finally:
        await connection.close()


async def test_a_key_is_stored_once_and_another_body_under_it_is_a_conflict(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"channel.{unique('keys')}.note"
    async with Bus(broker.url) as bus, look(broker.url, topic.rpartition(".")[0]) as log:
        first, again = await asyncio.gather(*(bus.publish(topic, "a", key="k") for _ in range(2)))
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.entry_id == first.entry_id
        with pytest.raises(KeyConflict, match="'k'"):
            await bus.publish(topic, "b", key="k")
        assert await log.contents() == ["a"]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"delay": "5s"}, r"delay: .*schedule"), ({"at": "2030-01-01T00:00:00Z"}, r"at: .*inbox"),
     ({"strict": True}, r"strict: .*nobody has to serve"), ({"ttl": 0}, "ttl: must be longer")],
)  # fmt: skip
async def test_what_a_log_cannot_do_is_refused_and_nothing_is_stored(
    broker: BrokerForTests, unique: Unique, options: Any, word: str
) -> None:
    address = f"channel.{unique('refuse')}"
    async with Bus(broker.url) as bus, look(broker.url, address) as log:
        with pytest.raises(InvalidValue, match=word):
            await bus.publish(f"{address}.note", "a", **options)
        assert not await log.client.exists(log.keys.log)


async def test_what_needs_an_inbox_says_so(broker: BrokerForTests, unique: Unique) -> None:
    address = f"channel.{unique('inbox')}"
    async with Bus(broker.url) as bus:
        with pytest.raises(InvalidTopic, match="collect their answers"):
            await bus.request(f"{address}.question", "?", timeout=5)
        with pytest.raises(InvalidTopic, match=r"needs an inbox"):
            await bus.inspect(address)
        with pytest.raises(InvalidValue, match=r"max_retries: .*is a channel"):
            await bus.declare(address, Policy(max_retries=3))
        with pytest.raises(InvalidValue, match="not a name"):
            await bus.next(address)


async def test_the_policy_of_a_channel_limits_its_log(broker: BrokerForTests, unique: Unique) -> None:
    address = f"project.{unique('limit')}"
    async with Bus(broker.url) as bus:
        await bus.declare(address, Policy(limit=2, durability="stream"))
        with pytest.raises(PolicyConflict):
            await bus.declare(address, Policy(limit=3, durability="stream"))
        results = await bus.publish_many(f"{address}.note", ["a", "b", "c"])
        assert [type(result) for result in results] == [Stored, Stored, QueueFull]


async def test_a_log_of_another_type_refuses_and_names_the_key(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"channel.{unique('type')}"
    async with Bus(broker.url) as bus, look(broker.url, address) as log:
        await log.client.set(log.keys.log, "a string")
        with pytest.raises(PublishRefused, match=r":log is a string, not a stream"):
            await bus.publish(f"{address}.note", "a")
        with pytest.raises(WrongKeyType, match=r":log is a string, not a stream"):
            await bus.trace("any", address)
        assert await log.ledger() == {}
        # Others search all addresses of this server.
        await log.client.delete(log.keys.log)


async def test_a_log_that_ends_in_mid_batch_refuses_the_rest_and_keeps_the_books(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"channel.{unique('end')}"
    async with Bus(broker.url) as bus, look(broker.url, address) as log:
        largest = 2**64 - 1
        await log.client.xadd(log.keys.log, {"message": "{}"}, id=f"{largest}-{largest - 1}")
        results = await bus.publish_many(f"{address}.note", ["fits", "late", "later"])
        assert [type(result) for result in results] == [Stored, PublishRefused, PublishRefused]
        assert "agentbus doctor" in str(results[1])
        assert await log.ledger() == {"accepted": 1, "added:log": 1}


@pytest.mark.parametrize("bucket", ["keys_even", "keys_odd"])
async def test_a_broken_bucket_of_keys_refuses_that_message_alone(
    broker: BrokerForTests, unique: Unique, bucket: str
) -> None:
    topic = f"channel.{unique('bucket')}.note"
    async with Bus(broker.url) as bus, look(broker.url, topic.rpartition(".")[0]) as log:
        await log.client.set(getattr(log.keys, bucket), "a string")
        plain, keyed = await asyncio.gather(
            bus.publish(topic, "plain"), bus.publish(topic, "keyed", key="k"), return_exceptions=True
        )
        assert isinstance(plain, Stored)
        assert isinstance(keyed, PublishRefused)
        assert await log.contents() == ["plain"]
