"""The books of an address notice what vanished, what was made by hand, and counters that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from agentbus import Bus
from agentbus.broker.keys import inbox_keys
from agentbus.testing import BrokerForTests
from tests.chaos import books

Unique = Callable[[str], str]


@pytest.fixture
def client(broker: BrokerForTests) -> Iterator[redis.Redis]:
    """A plain connection to the broker of this test run."""
    with redis.Redis.from_url(broker.url) as opened:
        yield opened


@pytest.fixture
async def address(broker: BrokerForTests, unique: Unique) -> str:
    """An inbox with three messages that wait, one that was processed, and one that is due later."""
    name = unique("ledger")
    async with Bus(broker.url) as bus:
        await bus.publish_many(f"agent.{name}.task", [{"key": f"w-{number}"} for number in range(4)])
        await bus.publish(f"agent.{name}.task", {"key": "later-0"}, delay="1h")
        async with bus.pulling(name) as puller:
            delivery = await puller.next(timeout=10)
            assert delivery is not None
            await delivery.ack()
    return f"agent.{name}"


async def test_the_books_close_and_say_where_everything_is(client: redis.Redis, address: str) -> None:
    found = books.look(client, address)
    assert found.difference == 0
    assert (found["accepted"], found["processed"], found["due"], found["waiting"]) == (5, 1, 1, 3)
    assert sorted(books.queued_keys(client, address)) == ["later-0", "w-1", "w-2", "w-3"]


async def test_an_entry_made_by_hand_is_counted_as_such(client: redis.Redis, address: str) -> None:
    client.xadd(inbox_keys("agentbus", address).sources[3], {"message": "{}"})
    found = books.look(client, address)
    assert (found.hand_made, found.difference) == (1, 0)


async def test_a_waiting_message_that_somebody_deleted_leaves_a_difference(
    client: redis.Redis, address: str
) -> None:
    lane = inbox_keys("agentbus", address).sources[3]
    newest: Any = client.xrevrange(lane, count=1)
    client.xdel(lane, newest[0][0])
    assert books.look(client, address).difference == 1


async def test_a_counter_that_lies_leaves_a_difference(client: redis.Redis, address: str) -> None:
    client.hincrby(inbox_keys("agentbus", address).ledger, "processed", 1)
    assert books.look(client, address).difference == -1
