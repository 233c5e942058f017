"""Inboxes by what somebody can do: whoever has the capability and is free takes the message."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus import Agent, Bus, BusSettings, Message, NoSuchAgent, Policy, Reject, RequestFailed, Retry
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.service import working
from workers.due import Due

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="asker", settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


def answering(agent: Agent, taken: Counter[str], go_on: asyncio.Event) -> Agent:
    @agent.on("question")
    async def handle(body: str, message: Message) -> str:
        assert (message.capability, message.to_agent) == ("review", None)
        taken[agent.name] += 1
        if body == "wait":
            await go_on.wait()
        return agent.name

    return agent


async def test_whoever_has_the_capability_and_is_free_answers(bus: Bus) -> None:
    taken, go_on = Counter[str](), asyncio.Event()
    agents = [answering(Agent(name, capabilities=["review"], concurrency=1), taken, go_on) for name in "ab"]
    async with bus.serving(*agents):
        first = asyncio.create_task(bus.request("capability.review.question", "wait", timeout=20))
        await eventually(lambda: taken.total() == 1)
        (busy,) = taken
        # The other one gets everything while the first has no hand free.
        others = [await bus.request("capability.review.question", "now", timeout=20) for _ in range(5)]
        assert set(others) == {"a", "b"} - {busy}
        go_on.set()
        assert await first == busy


async def test_without_anybody_the_message_waits_and_strict_refuses_it(bus: Bus) -> None:
    with pytest.raises(NoSuchAgent, match="no agent with the capability 'review'"):
        await bus.publish("capability.review.question", "now", strict=True)
    stored = await bus.publish("capability.review.question", "now")
    assert (stored.address, stored.known) == ("capability.review", False)
    taken, go_on = Counter[str](), asyncio.Event()
    async with bus.serving(answering(Agent("a", capabilities=["review"]), taken, go_on)):
        await eventually(lambda: taken["a"] == 1)
        assert (await bus.publish("capability.review.question", "now", strict=True)).known


async def test_a_capability_fails_retries_and_dies_as_any_inbox_does(bus: Bus) -> None:
    agent = Agent("a", capabilities=["review"], retry=Retry(max_retries=1, retry_delay=0.01))
    attempts: Counter[str] = Counter()

    @agent.on("question")
    async def handle(body: str, message: Message) -> str:
        attempts[body] += 1
        if body == "never" and attempts[body] < 3:
            raise Reject("not by me")
        if attempts[body] == 1:
            raise ValueError("once")
        return body

    await bus.declare("capability.review", Policy(limit=1_000))
    async with bus.serving(agent):
        assert await bus.request("capability.review.question", "again", timeout=20) == "again"
        for _ in range(2):
            with pytest.raises(RequestFailed, match="not by me"):
                await bus.request("capability.review.question", "never", timeout=20)
        letters = await bus.dead_letters.list()
        assert [letter.address for letter in letters] == ["capability.review"] * 2
        assert letters[0].message is not None
        trace = await bus.trace(letters[0].message.message_id)
        assert [place.address for place in trace.places] == ["capability.review"]
        await bus.dead_letters.retry(letters[0].id)
        await eventually(lambda: attempts["never"] == 3)
        await bus.dead_letters.resolve(letters[1].id, "done by hand")
        look = Look(bus, "capability.review")

        async def ended() -> bool:
            return await look.count("processed") == 2 and await look.unsettled() == 0

        await eventually(ended)
    view = await bus.inspect("capability.review")
    assert view.ledger.closes
    assert {"capability.review", "agent.a"} <= {inbox.address for inbox in (await bus.status()).addresses}
    page = await bus.history("capability.review", state="ended")
    assert sorted(entry.outcome or "" for entry in page.entries) == ["processed", "processed", "resolved"]
    assert await bus.policy("capability.review") == Policy(limit=1_000)


async def test_workers_look_after_a_capability_that_nobody_has(bus: Bus) -> None:
    look = Look(bus, "capability.review")
    await bus.publish("capability.review.question", "later", delay=0.05)
    async with working(bus, Due):

        async def waits() -> bool:
            return await look.waiting() == 1 and await look.due() == 0

        await eventually(waits)
