"""A SIGKILL tears the write it meets, and with it the last step in the server's file.

Redis 7.0 keeps the first half of such a step in its file and carries it out at the start after the next one:
entries without their counters, counters without their entries, messages of batches that were sent again.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.embedded import PrivateBroker, ServerBinary
from agentbus.errors import BrokerUnavailable
from tests.chaos import books
from tests.inboxes import InboxBench, ids

ADDRESS = "agent.torn"

Start = Callable[..., PrivateBroker]
#: Index of the stream to ids of its entries.
Entries = dict[int, list[bytes]]
Step = Callable[[PrivateBroker, Entries], Awaitable[None]]


def tear(broker: PrivateBroker, word: bytes = b"EXEC") -> None:
    """Kill the server as if in the middle of the last write, where it wrote ``word`` for the last time."""
    broker.kill()
    file = file_of(broker)
    os.truncate(file, file.read_bytes().rindex(word))


def file_of(broker: PrivateBroker) -> Path:
    (file,) = (broker.folder / "data" / "appendonlydir").glob("*.incr.aof")
    return file


def start_twice(broker: PrivateBroker) -> None:
    """Bring the server back, let it write, kill and bring it back once more."""
    broker.start()
    with redis.Redis.from_url(broker.url) as client:
        client.eval("redis.call('SET', 'whole', 1) redis.call('SET', 'step', 2)", 0)
    broker.kill()
    broker.start()


def look(broker: PrivateBroker) -> books.Books:
    with redis.Redis.from_url(broker.url) as client:
        return books.look(client, ADDRESS, "scripts")


def test_half_a_step_is_never_carried_out(private_broker: Start, each_server: ServerBinary) -> None:
    broker = private_broker(each_server)
    with redis.Redis.from_url(broker.url) as client:
        client.set("before", "kept")
        client.eval("for i = 1, 20 do redis.call('XADD', 'stream', '*', 'number', i) end", 0)
        tear(broker)
        start_twice(broker)

        assert client.mget("before", "whole", "step") == [b"kept", b"1", b"2"]
        assert client.xlen("stream") == 0
    assert "ended in the middle of a step: cut from" in broker.log.read_text()


def test_a_file_that_is_damaged_elsewhere_is_refused_and_not_touched(
    private_broker: Start, each_server: ServerBinary
) -> None:
    broker = private_broker(each_server)
    with redis.Redis.from_url(broker.url) as client:
        client.set("key", "value")
    broker.kill()
    file = file_of(broker)
    damaged = file.read_bytes().replace(b"$3\r\nSET", b"?3\r\nSET") + b"*1\r\n$4"
    file.write_bytes(damaged)

    with pytest.raises(BrokerUnavailable, match="Bad file format"):
        broker.start()
    assert file.read_bytes() == damaged


@asynccontextmanager
async def connected(broker: PrivateBroker) -> AsyncIterator[InboxBench]:
    link = Broker(ConnectionSettings(broker.url))
    yield InboxBench(link, ADDRESS)
    await link.close()


async def hold(broker: PrivateBroker, count: int) -> Entries:
    """Publish so many messages and let consumer ``c`` take them."""
    async with connected(broker) as on:
        await on.inbox.join("c")
        await on.publish(*["x"] * count)
        return ids(await on.fetch())


async def settle(broker: PrivateBroker, entries: Entries) -> None:
    async with connected(broker) as on:
        await on.inbox.settle("c", "processed", entries)


async def release(broker: PrivateBroker, entries: Entries) -> None:
    async with connected(broker) as on:
        await on.inbox.release("c", entries)


@pytest.mark.parametrize("step", [settle, release])
async def test_what_was_torn_and_done_again_is_counted_once(
    private_broker: Start, each_server: ServerBinary, step: Step
) -> None:
    broker = private_broker(each_server)
    held = await hold(broker, 21)
    await step(broker, held)
    assert look(broker).difference == 0
    tear(broker)
    broker.start()
    assert (look(broker)["in flight"], look(broker).difference) == (21, 0)
    await step(broker, held)
    broker.kill()
    start_twice(broker)

    found = look(broker)
    assert (found.difference, found.hand_made, found["in flight"]) == (0, 0, 0)
    assert found["processed"] + found["waiting"] == 21


async def test_no_entry_of_a_step_that_was_torn_stays_uncounted(
    private_broker: Start, each_server: ServerBinary
) -> None:
    broker = private_broker(each_server)
    await release(broker, await hold(broker, 20))
    tear(broker, b"added:returned")
    start_twice(broker)

    found = look(broker)
    assert (found.difference, found.hand_made, found["in flight"]) == (0, 0, 20)
