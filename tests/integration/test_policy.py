"""Declared policies: once per address, in force everywhere, and contradictions refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus import (
    Agent,
    Bus,
    Context,
    InvalidValue,
    Policy,
    PolicyConflict,
    QueueFull,
    RequestFailed,
)
from agentbus.testing import BrokerForTests

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="policies") as opened:
        yield opened


async def test_the_same_policy_may_be_declared_again_and_is_read_back(bus: Bus, unique: Unique) -> None:
    name = unique("declared")
    policy = Policy(ttl="10m", limit=5, when_exhausted="discard", acknowledgement="none")
    await bus.declare(name, policy)
    await bus.declare(f"agent.{name}", policy)
    stored = await bus.policy(name)
    assert (stored.ttl, stored.limit, stored.when_exhausted) == (600, 5, "discard")


async def test_outcomes_of_which_history_is_kept_are_the_same_in_any_order(bus: Bus, unique: Unique) -> None:
    name = unique("declared")
    await bus.declare(name, Policy(history_outcomes=("expired", "discarded")))
    await bus.declare(name, Policy(history_outcomes=("discarded", "expired")))
    assert (await bus.policy(name)).history_outcomes == ("discarded", "expired")
    with pytest.raises(PolicyConflict, match="history_outcomes"):
        await bus.declare(name, Policy(history_outcomes=()))
    await bus.declare(unique("none"), Policy(history_outcomes=()))


async def test_keeping_no_outcome_is_not_the_same_as_saying_nothing(bus: Bus, unique: Unique) -> None:
    name = unique("declared")
    await bus.declare(name, Policy(history_outcomes=()))
    assert (await bus.policy(name)).history_outcomes == ()
    with pytest.raises(PolicyConflict, match="history_outcomes"):
        await bus.declare(name, Policy(limit=3))


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [(("done",), "'done' is not one of processed"), (["expired"], "must be a tuple"),
     ("expired", "must be a tuple"), (("expired", "expired"), "twice"), (("retried",), "not one of")],
)  # fmt: skip
def test_outcomes_that_are_none_are_refused(outcomes: object, said: str) -> None:
    with pytest.raises(InvalidValue, match=said) as raised:
        Policy(history_outcomes=outcomes)  # type: ignore[arg-type]
    assert raised.value.field == "history_outcomes"


async def test_another_policy_is_refused_with_every_difference_named(bus: Bus, unique: Unique) -> None:
    name = unique("contradicted")
    await bus.declare(name, Policy(limit=5, ttl="1m"))
    with pytest.raises(PolicyConflict, match=r"limit is 5, not 6.*ttl_ms is 60000, not unset"):
        await bus.declare(name, Policy(limit=6))
    assert (await bus.policy(name)).limit == 5


async def test_the_limit_of_an_address_refuses_what_is_beyond_it(bus: Bus, unique: Unique) -> None:
    name = unique("limited")
    await bus.declare(name, Policy(limit=2))
    results = await bus.publish_many(f"agent.{name}.task", range(3))
    assert [isinstance(result, QueueFull) for result in results] == [False, False, True]


async def test_retries_of_the_address_hold_for_handlers_without_their_own(bus: Bus, unique: Unique) -> None:
    name = unique("retried")
    await bus.declare(name, Policy(max_retries=1, retry_delay="10ms"))
    attempts = []
    agent = Agent(name)

    @agent.on("task")
    async def fail(body: int, context: Context) -> None:
        attempts.append(context.attempt)
        raise ValueError("always")

    async with bus.serving(agent):
        with pytest.raises(RequestFailed, match="always"):
            await bus.request(f"agent.{name}.task", 1, timeout="10s")
    assert attempts == [1, 2]


async def test_without_acknowledgement_a_failing_handler_runs_once(bus: Bus, unique: Unique) -> None:
    name = unique("at-most-once")
    await bus.declare(name, Policy(acknowledgement="none", retry_delay="10ms"))
    attempts: list[str] = []
    last = asyncio.Event()
    agent = Agent(name, concurrency=1)

    @agent.on("task")
    async def fail(body: str) -> None:
        attempts.append(body)
        if body == "last":
            last.set()
        raise ValueError("always")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", "first")
        await bus.publish(f"agent.{name}.task", "last", delay="300ms")
        async with asyncio.timeout(10):
            await last.wait()
    assert attempts == ["first", "last"]


async def test_a_policy_written_by_hand_that_is_none_is_ignored_visibly(bus: Bus, unique: Unique) -> None:
    name = unique("scribbled")
    await bus.rooms.broker.execute("HSET", f"agentbus:{{agent.{name}}}:policy", "max_retries", "many")
    agent = Agent(name)

    @agent.on("task")
    async def answer(body: int) -> int:
        return body + 1

    async with bus.serving(agent):
        assert await bus.request(f"agent.{name}.task", 1, timeout="10s") == 2
    assert bus.events.counts["policy_ignored"] >= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("durability", "ram"), ("acknowledgement", "maybe"), ("limit", 0), ("ttl", "soon"), ("max_retries", -1)],
)
def test_a_policy_that_makes_no_sense_names_the_field(field: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        Policy(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
