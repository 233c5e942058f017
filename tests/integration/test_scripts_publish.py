"""What the scripts that add messages do when something is in their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import redis

from agentbus.broker.embedded import PrivateBroker
from agentbus.errors import BrokerError
from agentbus.testing import BrokerForTests
from tests.inboxes import WINDOW_MS, InboxBench, bench, ids


@pytest.fixture
async def on(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[InboxBench]:
    async with bench(broker.url, f"agent.{unique('publish')}") as opened:
        yield opened


@pytest.mark.parametrize("bucket", ["keys_even", "keys_odd", "keys_due"])
async def test_a_broken_bucket_of_keys_refuses_messages_and_never_half_a_batch(
    on: InboxBench, bucket: str
) -> None:
    await on.call("SET", getattr(on.keys, bucket), "a string")
    assert all(text.startswith("!error") for text in await on.publish("a", "b", key="k", digest="d"))
    assert await on.ledger("accepted") == 0
    assert await on.texts() == []


async def test_a_user_without_channels_can_publish_and_retry_with_a_delay(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    with redis.Redis.from_url(server.url) as control:
        control.acl_setuser("narrow", enabled=True, nopass=True, keys="*", commands=["+@all"], reset=True)
    url = server.url.replace("unix://", "unix://narrow:any@")
    async with bench(url, "agent.narrow") as on:
        assert (await on.publish("a", delay=1))[0].startswith("due ")
        assert (await on.publish("b"))[0][:1] != "!"
        entry = (await on.fetch())[0]
        assert await on.inbox.postpone("c", entry, 60_000, "deferred", "", "b")
        assert await on.call("XPENDING", on.keys.sources[3], "inbox") == [0, None, None, None]


@pytest.mark.parametrize("order", [("x", "x:state"), ("x:state", "x")])
async def test_ids_that_look_like_the_state_of_others_overwrite_nothing(
    on: InboxBench, order: tuple[str, str]
) -> None:
    for name in order:
        await on.publish(name, delay=1)
    await promoted(on, 2)
    assert sorted(await on.texts()) == ["x", "x:state"]


async def promoted(on: InboxBench, count: int) -> None:
    async with asyncio.timeout(5):
        while count:
            count -= (await on.inbox.promote(WINDOW_MS)).moved


async def test_a_broken_bucket_of_keys_does_not_promote_a_message_again_and_again(on: InboxBench) -> None:
    await on.publish("a", delay=1, key="k", digest="d")
    for bucket in (on.keys.keys_even, on.keys.keys_odd):
        await on.call("SET", bucket, "a string")
    await promoted(on, 1)
    assert (await on.inbox.promote(WINDOW_MS)).moved == 0
    assert await on.texts() == ["a"]


async def test_a_publisher_with_a_short_window_does_not_end_the_keys_of_one_with_a_long_window(
    on: InboxBench,
) -> None:
    await on.publish("a", key="long", digest="d", window=WINDOW_MS)
    for window in (1_000, 1_001, 1_002, 1_003):
        await on.publish("b", key=f"short{window}", digest="d", window=window)
    lives = [await on.call("PTTL", key) for key in (on.keys.keys_even, on.keys.keys_odd)]
    assert max(lives) > 10_000


async def test_what_would_expire_before_it_is_due_is_refused(on: InboxBench) -> None:
    await on.call("HSET", on.keys.policy, "ttl_ms", 1_000)
    assert await on.publish("a", delay=60_000) == ["!expires"]


async def test_hand_made_and_vanished_entries_do_not_shift_the_limit(on: InboxBench) -> None:
    for number in range(3):
        await on.call("XADD", on.keys.sources[3], "*", "message", f"hand{number}")
    await on.inbox.sweep()
    taken = await on.fetch()
    await on.inbox.settle("c", "processed", ids(taken))
    assert [text[0] for text in await on.publish("a", "b", "c", limit=2)] == ["1", "1", "!"]
    taken = await on.fetch()
    for entry in taken:
        await on.call("XDEL", on.keys.sources[entry.source], entry.entry_id)
        await on.inbox.forget(entry.source, entry.entry_id)
        await on.inbox.forget(entry.source, entry.entry_id)
    assert await on.ledger("vanished") == 2
    assert (await on.publish("d", limit=2))[0][0] != "!"


async def test_a_broken_index_of_due_messages_leaves_no_bodies_behind(on: InboxBench) -> None:
    await on.publish("a")
    entry = (await on.fetch())[0]
    await on.call("SET", on.keys.due, "a string")
    for _ in range(3):
        with pytest.raises(BrokerError):
            await on.inbox.postpone("c", entry, 0, "retried", "", "a")
    assert await on.call("HLEN", on.keys.delayed) == 0
    await on.call("DEL", on.keys.due)
    assert await on.inbox.postpone("c", entry, 0, "retried", "", "a")


async def test_an_error_text_that_json_of_the_server_refuses_does_not_hold_up_a_retry(on: InboxBench) -> None:
    await on.publish("a", "b")
    first, second = await on.fetch()
    failure = '{"error": "cannot open \\udce9t\\udce9.txt"}'
    assert await on.inbox.postpone("c", first, 0, "retried", failure, "a")
    assert await on.inbox.bury("c", second, "rejected", "no", failure, 3) is not None


async def test_a_due_time_of_infinity_does_not_stop_the_timer(on: InboxBench) -> None:
    await on.call("ZADD", on.keys.due, "inf", "somebody")
    assert (await on.inbox.promote(WINDOW_MS)).next_due_ms is None


async def test_one_step_of_promotion_moves_a_few_megabytes_and_says_that_there_is_more(
    on: InboxBench,
) -> None:
    body = "x" * 1_000_000
    for _ in range(9):
        await on.publish(body, delay=1)
    await asyncio.sleep(0.005)
    step = await on.inbox.promote(WINDOW_MS)
    assert step.moved < 9 and step.more
    await promoted(on, 9 - step.moved)
