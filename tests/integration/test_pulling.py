"""Deliveries that user code pulls: the same engine, with the caller in the runner's place."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from agentbus import Agent, AgentSettings, AlreadySettled, Bus, RequestFailed, Retry
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually, stays

Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("puller")


async def settled(look: Look, **counts: int) -> None:
    async def reached() -> bool:
        ledger = await look.ledger()
        return all(ledger.get(key, 0) == count for key, count in counts.items()) and not await look.pending()

    await eventually(reached)
    await look.check_balance()


async def test_leaving_the_block_ends_a_delivery_as_processed(bus: Bus, name: str) -> None:
    await bus.publish_many(f"agent.{name}.task", range(5))
    seen = []
    async for delivery in bus.inbox(name):
        async with delivery:
            seen.append(delivery.message.content)
        if len(seen) == 5:
            break
    assert seen == [0, 1, 2, 3, 4]
    await settled(Look(bus, name), processed=5)


async def test_an_exception_in_the_block_is_a_retry_and_goes_on_to_its_caller(bus: Bus, name: str) -> None:
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01))
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", None)
    async with bus.pulling(name, agent=agent) as puller:
        for attempt in (1, 2):
            delivery = await puller.next(10)
            assert delivery is not None
            assert delivery.attempt == attempt
            with pytest.raises(ValueError, match="broken"):
                async with delivery:
                    raise ValueError("broken")
        assert await eventually(look.dead_reasons) == ["exhausted"]
    await look.check_balance()


async def test_breaking_out_hands_back_what_is_unsettled_and_leaves(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(3))
    async for delivery in bus.inbox(name):
        assert delivery.message.content == 0
        break
    await settled(look, released=1)
    assert await look.waiting() == 3

    async def gone() -> bool:
        return not await look.alive() and not await look.group_consumers()

    await eventually(gone)
    again = await bus.next(name, timeout=10)
    assert again is not None
    assert (again.message.content, again.attempt) == (0, 1)
    await again.ack()


async def test_closing_the_bus_right_after_a_break_leaves_nothing_behind(
    bus: Bus, broker: BrokerForTests, name: str
) -> None:
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", None)
    async with Bus(broker.url, agent=name) as short:
        async for _delivery in short.inbox(name):
            break
    assert await look.pending() == 0
    assert await look.alive() == {}
    assert await look.count("released") == 1


async def test_next_gives_one_or_none_within_its_timeout(bus: Bus, name: str) -> None:
    assert await bus.next(name, timeout=0.05) is None
    await bus.publish(f"agent.{name}.task", "late")
    delivery = await bus.next(name, timeout=10)
    assert delivery is not None
    async with delivery:
        assert delivery.message.content == "late"
    assert delivery.settled
    await settled(Look(bus, name), processed=1)
    assert await bus.next(name, timeout=0.05) is None


async def test_several_can_be_held_at_once(bus: Bus, name: str) -> None:
    await bus.publish_many(f"agent.{name}.task", range(4))
    held = [await bus.next(name, timeout=10) for _ in range(4)]
    assert [delivery.message.content for delivery in held if delivery] == [0, 1, 2, 3]
    for delivery in held:
        assert delivery is not None
        await delivery.ack()
    await settled(Look(bus, name), processed=4)


async def test_nothing_is_taken_away_from_others_while_nobody_asks(
    bus: Bus, broker: BrokerForTests, name: str
) -> None:
    look = Look(bus, name)
    assert await bus.next(name, timeout=0.05) is None
    # The read that was parked for it may still be given one message; that one comes back.
    await bus.publish_many(f"agent.{name}.task", range(5))

    async def none_held() -> bool:
        return await look.pending() == 0

    await eventually(none_held)
    await stays(none_held, 1.5)
    seen = []
    async with Bus(broker.url, agent="other") as other:
        while len(seen) < 5:
            delivery = await other.next(name, timeout=5)
            assert delivery is not None
            async with delivery:
                seen.append(delivery.message.content)
    assert sorted(seen) == [0, 1, 2, 3, 4]


async def test_a_caller_that_is_cancelled_takes_nothing(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    assert await bus.next(name, timeout=0.01) is None
    for number in range(30):
        waiting = asyncio.create_task(bus.next(name, timeout=10))
        await asyncio.sleep(0)
        publishing = asyncio.create_task(bus.publish(f"agent.{name}.task", number))
        # Cancelled at ever another point between the publish and the hand-over.
        for _ in range(number):
            await asyncio.sleep(0)
        waiting.cancel()
        await publishing
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            delivery = waiting.result()
            assert delivery is not None
            await delivery.ack()

    async def nothing_held() -> bool:
        return await look.pending() == 0

    await eventually(nothing_held)
    await look.check_balance()
    left = await look.waiting()
    for _ in range(left):
        delivery = await bus.next(name, timeout=10)
        assert delivery is not None
        await delivery.ack()
    await settled(look, processed=30)


async def test_a_block_that_is_cancelled_hands_its_delivery_back(bus: Bus, name: str) -> None:
    inside = asyncio.Event()
    await bus.publish(f"agent.{name}.task", None)

    async def work() -> None:
        async for delivery in bus.inbox(name):
            async with delivery:
                inside.set()
                await asyncio.sleep(60)

    working = asyncio.create_task(work())
    await inside.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    look = Look(bus, name)
    await settled(look, released=1)
    assert await look.waiting() == 1


async def test_a_delivery_that_nobody_holds_any_more_is_handed_back_with_a_warning(
    bus: Bus, name: str
) -> None:
    await bus.publish(f"agent.{name}.task", None)
    delivery = await bus.next(name, timeout=10)
    assert delivery is not None
    del delivery
    gc.collect()
    await eventually(lambda: bus.events.counts["dropped_delivery"] == 1)
    again = await bus.next(name, timeout=10)
    assert again is not None
    await again.ack()
    await settled(Look(bus, name), processed=1, released=1)


async def test_a_loop_that_forgets_to_settle_gets_on_and_is_told(bus: Bus, name: str) -> None:
    await bus.publish_many(f"agent.{name}.task", range(3))
    seen = 0
    async with asyncio.timeout(10):
        async for delivery in bus.inbox(name):
            seen += 1
            if seen == 6:
                await delivery.ack()
                break
    assert bus.events.counts["dropped_delivery"] >= 3
    await settled(Look(bus, name), processed=1)


async def test_the_acknowledgement_timeout_counts_as_a_failure(bus: Bus, name: str) -> None:
    agent = Agent(
        name,
        retry=Retry(max_retries=1, retry_delay=0.01),
        settings=AgentSettings(pulled_timeout=0.1),
    )
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", None)
    async with bus.pulling(name, agent=agent) as puller:
        first = await puller.next(10)
        second = await puller.next(10)
        assert first is not None
        assert second is not None
        assert (first.attempt, second.attempt) == (1, 2)
        with pytest.raises(AlreadySettled):
            await first.ack()
        (letter,) = await eventually(look.dead)
        assert b"not settled within" in letter["detail"]
        assert second.settled
    await look.check_balance()


async def test_an_asker_is_told_when_a_pulled_request_is_not_settled_in_time(bus: Bus, name: str) -> None:
    agent = Agent(name, retry=Retry(max_retries=0), settings=AgentSettings(pulled_timeout=0.1))
    async with bus.pulling(name, agent=agent) as puller:
        asking = asyncio.create_task(bus.request(f"agent.{name}.question", None, timeout=20))
        delivery = await puller.next(10)
        assert delivery is not None
        with pytest.raises(RequestFailed, match="not settled within"):
            await asking


async def test_a_pulled_request_is_answered_and_refused(bus: Bus, name: str) -> None:
    asking = asyncio.create_task(bus.request(f"agent.{name}.question", None, timeout=10))
    delivery = await bus.next(name, timeout=10)
    assert delivery is not None
    await delivery.ack(reply=42)
    assert await asking == 42
    asking = asyncio.create_task(bus.request(f"agent.{name}.question", None, timeout=10))
    delivery = await bus.next(name, timeout=10)
    assert delivery is not None
    await delivery.reject("not today")
    with pytest.raises(RequestFailed, match="not today"):
        await asking


async def test_a_malformed_entry_is_buried_and_the_next_one_is_handed_out(bus: Bus, name: str) -> None:
    look = Look(bus, name)
    assert await bus.next(name, timeout=0.01) is None
    await bus.rooms.broker.execute("XADD", look.keys.sources[3], "*", "message", "not json")
    await bus.publish(f"agent.{name}.task", "fine")
    delivery = await bus.next(name, timeout=10)
    assert delivery is not None
    assert delivery.message.content == "fine"
    await delivery.ack()
    assert await eventually(look.dead_reasons) == ["malformed"]
