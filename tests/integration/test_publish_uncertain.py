"""What must hold when a reply is lost: nothing lost, nothing doubled, no refusal reported as success."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable

import pytest

from agentbus.broker.answers import BatchAnswer
from agentbus.errors import KeyConflict, PublishTimeout, QueueFull
from agentbus.send.stored import Stored
from agentbus.testing import BrokerForTests
from tests.ambiguity import force_ambiguous_publishes
from tests.proxy import Proxy
from tests.publishing import Office, inbox_of, is_publish, look_at, once, open_office, wait_until

Unique = Callable[[str], str]


async def send_raw(
    office: Office, address: str, first: int, *bodies: str, producer: str = "p1", limit: int = 1_000_000
) -> BatchAnswer:
    """Run the publish script past the publisher, as a late or repeated request would."""
    texts = [
        json.dumps({"message_id": body, "message_type": "t", "body": {"content": body}}).encode()
        for body in bodies
    ]
    lanes = "2" * len(texts)
    return await inbox_of(office, address).publish(producer, first, lanes, "", texts, (60_000, limit, 60_000))


async def test_full_in_batch_with_cut_reply(broker: BrokerForTests, unique: Unique) -> None:
    topic = f"agent.{unique('full')}.task"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, address_limit=2) as office,
        look_at(broker.url, topic.rpartition(".")[0]) as eyes,
    ):
        proxy.lose_reply = once(is_publish)
        results = await office.publisher.publish_many(topic, ["a", "b", "c", "d"])

        assert proxy.cuts == 1
        assert [type(result) for result in results] == [Stored, Stored, QueueFull, QueueFull]
        assert await eyes.bodies() == ["a", "b"]


async def test_a_conflict_is_told_from_the_record_after_a_lost_reply(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"agent.{unique('conflict')}.task"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url) as office,
        look_at(broker.url, topic.rpartition(".")[0]) as eyes,
    ):
        first = await office.publisher.publish(topic, "a", key="k")
        proxy.lose_reply = once(is_publish)
        other, same = await asyncio.gather(
            office.publisher.publish(topic, "b", key="k"),
            office.publisher.publish(topic, "a", key="k"),
            return_exceptions=True,
        )

        assert proxy.cuts == 1
        assert isinstance(other, KeyConflict)
        assert isinstance(same, Stored)
        assert same.duplicate
        assert same.entry_id == first.entry_id
        assert await eyes.bodies() == ["a"]


async def test_a_recovered_batch_says_stored_and_never_duplicate(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"agent.{unique('recovered')}.task"
    async with Proxy(broker.url) as proxy, open_office(proxy.url) as office:
        await office.publisher.publish(topic, "warm")
        proxy.lose_reply = once(is_publish)
        stored = await office.publisher.publish(topic, "x")

        assert (stored.duplicate, stored.entry_id) == (False, None)


async def test_second_batch_overtakes(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('overtaken')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        answer = await send_raw(office, address, 4, "d", "e")
        assert (answer.kind, answer.last) == ("gap", 0)
        assert not await eyes.client.keys(f"*{{{address}}}*")

        assert (await send_raw(office, address, 1, "a", "b", "c")).kind == "stored"
        assert (await send_raw(office, address, 4, "d", "e")).kind == "stored"
        assert await eyes.bodies() == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("first", "bodies"),
    [(1, "abc"), (2, "bc"), (3, "xyz"), (3, "c"), (6, "f"), (1, "a")],
    ids=["an old batch", "its tail", "longer", "shorter", "beyond the next", "a part of an old one"],
)
async def test_a_batch_out_of_order_is_refused_with_nothing_written(
    broker: BrokerForTests, unique: Unique, first: int, bodies: str
) -> None:
    address = f"agent.{unique('gap')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await send_raw(office, address, 1, "a", "b")
        await send_raw(office, address, 3, "c", "d")
        before = await eyes.ledger()

        answer = await send_raw(office, address, first, *bodies)

        assert (answer.kind, answer.last) == ("gap", 4)
        assert await eyes.bodies() == ["a", "b", "c", "d"]
        assert await eyes.ledger() == before
        assert (await send_raw(office, address, 3, "c", "d")).kind == "recovered"


async def test_publish_many_beside_publish_shares_positions(broker: BrokerForTests, unique: Unique) -> None:
    topic = f"agent.{unique('both')}.task"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, batch_messages=7) as office,
        look_at(broker.url, topic.rpartition(".")[0]) as eyes,
    ):
        proxy.lose_reply = once(is_publish, times=5)
        many = [
            office.publisher.publish_many(topic, [f"m{number}-{index}" for index in range(40)])
            for number in range(3)
        ]
        single = [office.publisher.publish(topic, f"s{number}") for number in range(40)]
        results = await asyncio.gather(*many, *single)

        assert proxy.cuts == 5
        flat = [item for result in results for item in (result if isinstance(result, list) else [result])]
        assert len(flat) == 160
        assert all(isinstance(item, Stored) for item in flat)
        bodies = await eyes.bodies()
        assert len(bodies) == len(set(bodies)) == 160
        assert not office.said("data_lost")


async def test_a_callers_timeout_does_not_change_a_frozen_batch(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"agent.{unique('frozen')}.task"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, command_timeout=0.3) as office,
        look_at(broker.url, topic.rpartition(".")[0]) as eyes,
    ):
        await office.publisher.publish(topic, "warm")
        proxy.lose_reply = once(is_publish, times=2)
        first = asyncio.create_task(office.publisher.publish(topic, "cancelled"))
        second = asyncio.create_task(office.publisher.publish(topic, "kept"))
        await wait_until(lambda: proxy.cuts >= 1, "the first reply is lost")
        first.cancel()
        third = asyncio.create_task(office.publisher.publish(topic, "next"))

        assert isinstance(await second, Stored)
        assert isinstance(await third, Stored)
        # The message of the caller that went away keeps its place: it was sent.
        assert await eyes.bodies() == ["warm", "cancelled", "kept", "next"]


async def test_a_short_deadline_in_a_frozen_batch_does_not_change_it(
    broker: BrokerForTests, unique: Unique
) -> None:
    topic = f"agent.{unique('frozen')}.task"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, command_timeout=0.5) as office,
        look_at(broker.url, topic.rpartition(".")[0]) as eyes,
    ):
        await office.publisher.publish(topic, "warm")
        proxy.black_hole = True
        patient = asyncio.create_task(office.publisher.publish(topic, "patient"))
        hasty = asyncio.create_task(office.publisher.publish(topic, "hasty", deadline="200ms"))
        with pytest.raises(PublishTimeout) as raised:
            await hasty
        assert raised.value.uncertain
        proxy.black_hole = False
        proxy.reset()

        await patient
        assert await eyes.bodies() == ["warm", "patient", "hasty"]


async def test_when_all_callers_of_a_frozen_batch_have_given_up_its_ghost_harms_nobody(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('ghost')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, command_timeout=0.2) as office,
        look_at(broker.url, address) as eyes,
    ):
        await office.publisher.publish(f"{address}.task", "warm")
        [record] = await eyes.client.keys(f"{eyes.keys.producer}*")
        # Executed, but no reply comes back until its callers have gone.
        proxy.lose_reply = is_publish
        with pytest.raises(PublishTimeout) as raised:
            await office.publisher.publish(f"{address}.task", "ghost", deadline="300ms")
        assert raised.value.uncertain
        proxy.lose_reply = lambda _: False
        # With the old numbers this would be answered from the ghost's record and never be stored.
        stored = await office.publisher.publish(f"{address}.task", "after")

        assert stored.entry_id is not None
        assert await eyes.bodies() == ["warm", "ghost", "after"]
        assert len(await eyes.client.keys(f"{eyes.keys.producer}*")) == 2
        assert (await eyes.client.get(record)).split()[1] == b"2"


async def test_cancelling_every_task_of_the_loop_reports_no_loss_as_success(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('cancelled')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url) as office,
        look_at(broker.url, address) as eyes,
    ):
        await office.publisher.publish(f"{address}.task", "warm")
        proxy.delay = 0.1
        sending = asyncio.create_task(office.publisher.publish(f"{address}.task", "in flight"))
        seen = proxy.requests
        await wait_until(lambda: proxy.requests > seen, "the request is on its way")
        # What many programs do in their signal handler.
        for task in asyncio.all_tasks():
            if task.get_name().startswith("agentbus publish"):
                task.cancel()
        await wait_until(lambda: _has(eyes, 2), "the server executed it all the same")
        proxy.delay = 0.0
        stored = await office.publisher.publish(f"{address}.task", "goodbye")

        assert stored.message_id
        assert (await eyes.bodies())[-1] == "goodbye"
        async with asyncio.timeout(2):
            await asyncio.gather(sending, return_exceptions=True)


async def _has(eyes: object, count: int) -> bool:
    return len(await eyes.bodies()) >= count  # type: ignore[attr-defined]


async def test_bricked_lane_in_mid_batch(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('bricked')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url) as office,
        look_at(broker.url, address) as eyes,
    ):
        largest = f"{2**64 - 1}-{2**64 - 1}"
        await eyes.client.xadd(eyes.keys.sources[2], {"message": "{}"}, id=largest)
        proxy.lose_reply = once(is_publish)
        before, bricked, after = await asyncio.gather(
            office.publisher.publish(f"{address}.task", "before"),
            office.publisher.publish(f"{address}.task", "bricked", priority="high"),
            office.publisher.publish(f"{address}.task", "after"),
            return_exceptions=True,
        )

        assert proxy.cuts == 1
        assert isinstance(before, Stored)
        assert isinstance(after, Stored)
        assert "lane:high" in str(bricked)
        assert "doctor" in str(bricked)
        assert await eyes.client.xlen(eyes.keys.sources[3]) == 2
        assert (await eyes.ledger())["accepted"] == 2


async def test_two_equal_keys_in_one_batch_store_one_message(broker: BrokerForTests, unique: Unique) -> None:
    topic = f"agent.{unique('equal')}.task"
    async with open_office(broker.url) as office, look_at(broker.url, topic.rpartition(".")[0]) as eyes:
        first, again, other = await asyncio.gather(
            office.publisher.publish(topic, 1, key="k"),
            office.publisher.publish(topic, 1, key="k"),
            office.publisher.publish(topic, 2, key="k"),
            return_exceptions=True,
        )

        assert isinstance(first, Stored)
        assert isinstance(again, Stored)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.entry_id == first.entry_id
        assert isinstance(other, KeyConflict)
        assert await eyes.bodies() == [1]


async def test_more_than_a_hundred_forced_ambiguous_publishes_leave_one_entry_each(
    broker: BrokerForTests, unique: Unique
) -> None:
    tally = await force_ambiguous_publishes(broker.url, f"agent.{unique('ambiguous')}", 120, seed=15)

    assert tally.forced >= 120
    assert (tally.stored, tally.lost, tally.doubled) == (120, 0, 0)


@pytest.mark.parametrize("publishes", [20, 0], ids=["and the child publishes", "and the child only ends"])
async def test_fork_with_a_live_publisher(broker: BrokerForTests, unique: Unique, publishes: int) -> None:
    address = f"agent.{unique('fork')}"
    async with (
        open_office(broker.url) as office,
        look_at(broker.url, address) as eyes,
    ):
        publish = office.publisher.publish
        await asyncio.gather(*(publish(f"{address}.task", f"parent-{number}") for number in range(3)))

        child = os.fork()
        if child == 0:
            _go_on_in_child(office, address, publishes)
        for number in range(3, 30):
            async with asyncio.timeout(5):
                await publish(f"{address}.task", f"parent-{number}")
        await wait_until(lambda: _ended(child), "the child ends")
        for number in range(30, 60):
            # A child that tore down what it inherited would have deafened these connections.
            async with asyncio.timeout(0.9):
                await publish(f"{address}.task", f"parent-{number}")

        bodies = await eyes.bodies()
        assert sorted(bodies) == sorted(
            [f"parent-{number}" for number in range(60)] + [f"child-{number}" for number in range(publishes)]
        )
        assert not office.said("data_lost")
        assert not office.said("reconnected")
        assert len(await eyes.client.keys(f"{eyes.keys.producer}*")) == 1 + (publishes > 0)


def _go_on_in_child(office: Office, address: str, publishes: int) -> None:
    """Go on with the inherited publisher in a loop of the child's own; never returns."""
    signal.alarm(20)
    code = 1
    try:
        asyncio.run(_publish_and_close(office, address, publishes))
        # What the child let go of is collected here rather than never.
        gc.collect()
        code = 0
    finally:
        os._exit(code)


async def _publish_and_close(office: Office, address: str, publishes: int) -> None:
    for number in range(publishes):
        await office.publisher.publish(f"{address}.task", f"child-{number}")
        gc.collect()
    await office.publisher.close()
    await office.broker.close()


def _ended(child: int) -> bool:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        assert status == 0, f"the child ended with {status}"
    return pid != 0


def test_a_second_event_loop_begins_with_positions_of_its_own(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('loops')}"

    async def first() -> Office:
        async with open_office(broker.url) as office:
            await office.publisher.publish(f"{address}.task", "one")
            await office.broker.close()
            office.publisher._closed = False
            return office

    async def second(office: Office) -> list[str]:
        office.publisher._closed = False
        await office.publisher.publish(f"{address}.task", "two")
        await office.publisher.close()
        await office.broker.close()
        async with look_at(broker.url, address) as eyes:
            assert len(await eyes.client.keys(f"{eyes.keys.producer}*")) == 2
            return list(await eyes.bodies())

    office = asyncio.run(first())
    assert asyncio.run(second(office)) == ["one", "two"]
