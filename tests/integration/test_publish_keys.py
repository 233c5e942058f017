"""Idempotency keys: the same message twice is stored once, another one under its key is a conflict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agentbus.broker.answers import RawEntry
from agentbus.errors import KeyConflict, PublishRefused, QueueFull
from agentbus.send.stored import Stored
from agentbus.testing import BrokerForTests
from tests.publishing import Eyes, inbox_of, look_at, open_office, wait_until

Unique = Callable[[str], str]


async def test_a_repeated_key_returns_the_first_entry_and_stores_nothing(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('repeat')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        first = await office.publisher.publish(f"{address}.task", {"a": 1, "b": 2}, key="k", priority="low")
        again = await office.publisher.publish(f"{address}.task", {"b": 2, "a": 1}, key="k", priority="low")

        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.entry_id == first.entry_id
        assert again.message_id != first.message_id
        assert len(await eyes.bodies()) == 1
        assert (await eyes.ledger())["accepted"] == 1


async def test_a_restarted_publisher_is_still_recognised_by_its_key(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('restart')}"
    async with look_at(broker.url, address) as eyes:
        for expected in (False, True):
            async with open_office(broker.url) as office:
                stored = await office.publisher.publish(f"{address}.task", "x", key="k")
                assert stored.duplicate is expected
        assert await eyes.bodies() == ["x"]


@pytest.mark.parametrize(
    ("body", "options"),
    [("other", {}), ("same", {"priority": "high"}), ("same", {"ttl": "1h"}), ("same", {"delay": "1h"})],
    ids=["another body", "another priority", "another ttl", "a delay"],
)
async def test_the_same_key_with_another_message_is_a_conflict_and_the_first_stands(
    broker: BrokerForTests, unique: Unique, body: str, options: dict[str, str]
) -> None:
    address = f"agent.{unique('conflict')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", "same", key="order-7")
        with pytest.raises(KeyConflict, match="'order-7'"):
            await office.publisher.publish(f"{address}.task", body, key="order-7", **options)

        assert await eyes.bodies() == ["same"]
        assert not await eyes.client.exists(eyes.keys.due)


async def test_the_same_key_to_another_type_is_a_conflict(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('type')}"
    async with open_office(broker.url) as office:
        await office.publisher.publish(f"{address}.task", 1, key="k")
        with pytest.raises(KeyConflict):
            await office.publisher.publish(f"{address}.question", 1, key="k")


async def test_another_sender_cannot_suppress_a_message_by_using_its_key(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('hostile')}"
    async with (
        open_office(broker.url, agent="hostile") as hostile,
        open_office(broker.url, agent="victim") as victim,
        open_office(broker.url, agent=None) as nobody,
        look_at(broker.url, address) as eyes,
    ):
        await hostile.publisher.publish(f"{address}.task", "attack", key="k")
        await nobody.publisher.publish(f"{address}.task", "attack", key="victim/k")
        stored = await victim.publisher.publish(f"{address}.task", "real", key="k")

        assert not stored.duplicate
        assert await eyes.bodies() == ["attack", "attack", "real"]


async def test_the_same_key_to_another_address_is_independent(broker: BrokerForTests, unique: Unique) -> None:
    async with open_office(broker.url) as office:
        for _ in range(2):
            stored = await office.publisher.publish(f"agent.{unique('own')}.task", 1, key="k")
            assert not stored.duplicate


async def test_a_window_ends(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('window')}"
    async with open_office(broker.url, key_window="100ms") as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", "x", key="k")
        assert (await office.publisher.publish(f"{address}.task", "x", key="k")).duplicate

        async def forgotten() -> bool:
            return not await eyes.client.exists(eyes.keys.keys_even, eyes.keys.keys_odd)

        # Not before one whole window, not after two.
        await wait_until(forgotten, "the buckets expire", 2.0)
        assert not (await office.publisher.publish(f"{address}.task", "x", key="k")).duplicate
        assert await eyes.bodies() == ["x", "x"]


async def test_a_bucket_lives_for_at_least_one_window_and_at_most_two(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('life')}"
    async with open_office(broker.url, key_window="1h") as office, look_at(broker.url, address) as eyes:
        await office.publisher.publish(f"{address}.task", "x", key="k")

        lives = [await eyes.client.pttl(key) for key in (eyes.keys.keys_even, eyes.keys.keys_odd)]
        assert sorted(lives)[0] == -2
        assert 3_600_000 - 1000 <= max(lives) <= 7_200_000


async def test_the_key_of_a_delayed_message_holds_until_it_is_due_and_then_for_a_window(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('delayed')}"
    # A window much shorter than the delay: by itself it would be over long before.
    async with open_office(broker.url, key_window="60ms") as office, look_at(broker.url, address) as eyes:
        inbox = inbox_of(office, address)
        first = await office.publisher.publish(f"{address}.task", "x", key="k", delay="400ms")
        assert first.entry_id is None
        await wait_until(lambda: _server_passed(eyes, 200), "three windows pass")
        again = await office.publisher.publish(f"{address}.task", "x", key="k", delay="400ms")
        assert (again.duplicate, again.entry_id) == (True, None)
        with pytest.raises(KeyConflict):
            await office.publisher.publish(f"{address}.task", "y", key="k")

        async def promoted() -> bool:
            return (await inbox.promote(30_000)).moved == 1

        await wait_until(promoted, "it comes due")
        assert await eyes.client.hlen(eyes.keys.keys_due) == 0
        after = await office.publisher.publish(f"{address}.task", "x", key="k", delay="400ms")
        [(entry_id, _)] = await eyes.client.xrange(eyes.keys.sources[3])
        assert (after.duplicate, after.entry_id) == (True, entry_id.decode())
        assert await eyes.bodies() == ["x"]


async def _server_passed(eyes: Eyes, milliseconds: int) -> bool:
    """Whether so much of the server's time has passed since the first message was stored."""
    [(_, due)] = await eyes.client.zrange(eyes.keys.due, 0, -1, withscores=True)
    seconds, microseconds = await eyes.client.time()
    return bool(seconds * 1000 + microseconds / 1000 >= due - 400 + milliseconds)


async def test_a_refused_full_leaves_no_key_behind(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('full')}"
    async with open_office(broker.url, address_limit=1) as office, look_at(broker.url, address) as eyes:
        inbox = inbox_of(office, address)
        await inbox.join("one")
        await office.publisher.publish(f"{address}.task", "first")
        with pytest.raises(QueueFull):
            await office.publisher.publish(f"{address}.task", "second", key="k")
        [entry] = await inbox.fetch("one", 1, 1_000_000)
        await _settle(inbox, entry)

        stored = await office.publisher.publish(f"{address}.task", "second", key="k")
        assert not stored.duplicate
        assert await eyes.bodies() == ["first", "second"]


async def _settle(inbox: object, entry: RawEntry) -> None:
    await inbox.settle("one", "processed", {entry.source: [entry.entry_id]})  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["with space", "ü😀", "line\nbreak", "{brace}:", "/", "k" * 512, "\0"])
async def test_any_text_is_a_key(broker: BrokerForTests, unique: Unique, key: str) -> None:
    topic = f"agent.{unique('text')}.task"
    async with open_office(broker.url) as office:
        assert not (await office.publisher.publish(topic, 1, key=key)).duplicate
        assert (await office.publisher.publish(topic, 1, key=key)).duplicate


async def test_a_bad_key_of_one_caller_does_not_touch_the_batch_of_others(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"agent.{unique('neighbour')}.task"
    async with open_office(broker.url) as office:
        good, bad = await asyncio.gather(
            office.publisher.publish(topic, 1),
            office.publisher.publish(topic, 1, key="\udc80"),
            return_exceptions=True,
        )
        assert isinstance(good, Stored)
        assert isinstance(bad, ValueError)


@pytest.mark.parametrize("bucket", ["keys_even", "keys_due"])
async def test_a_foreign_key_in_place_of_a_bucket_refuses_only_messages_with_a_key(
    broker: BrokerForTests, unique: Unique, bucket: str
) -> None:
    address = f"agent.{unique('foreign')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        name = getattr(eyes.keys, bucket)
        await eyes.client.set(name, "mine")
        before, keyed, after = await asyncio.gather(
            office.publisher.publish(f"{address}.task", "before"),
            office.publisher.publish(f"{address}.task", "keyed", key="k"),
            office.publisher.publish(f"{address}.task", "after"),
            return_exceptions=True,
        )

        assert isinstance(before, Stored)
        assert isinstance(after, Stored)
        assert isinstance(keyed, PublishRefused)
        assert name in str(keyed)
        assert await eyes.bodies() == ["before", "after"]
        assert (await eyes.ledger())["accepted"] == 2
