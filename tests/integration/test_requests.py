"""Requests and their answers, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from agentbus import (
    Agent,
    Bus,
    Context,
    Delivery,
    MalformedMessage,
    Message,
    Reject,
    RequestFailed,
    RequestTimeout,
    Retry,
    Topic,
)
from agentbus.broker.scripts import load
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.proxy import Proxy

Unique = Callable[[str], str]


class Question(BaseModel):
    text: str


class Verdict(BaseModel):
    ready: bool
    score: int = 0


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="asker") as opened:
        yield opened


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("oracle")


async def test_a_typed_question_gets_a_typed_answer(bus: Bus, name: str) -> None:
    agent = Agent(name)

    @agent.on("question")
    async def handle(body: Question) -> Verdict:
        return Verdict(ready=body.text == "ready?", score=3)

    topic: Topic[Question, Verdict] = Topic(f"agent.{name}.question", Question, reply=Verdict)
    async with bus.serving(agent):
        answer = await bus.request(topic, Question(text="ready?"), timeout=10)
        assert answer == Verdict(ready=True, score=3)
        plain = await bus.request(f"agent.{name}.question", {"text": "no"}, timeout=10)
        assert plain == {"ready": False, "score": 3}
        with pytest.raises(MalformedMessage, match=r"body\.content"):
            await bus.request(f"agent.{name}.question", {"text": "no"}, reply=int, timeout=10)


async def test_a_hundred_requests_at_once_each_get_their_own_answer(bus: Bus, name: str) -> None:
    agent = Agent(name, concurrency=20)

    @agent.on("question")
    async def handle(body: int) -> int:
        await asyncio.sleep(0.001 * (body % 7))
        return body * 2

    async with bus.serving(agent):
        answers = await asyncio.gather(
            *(bus.request(f"agent.{name}.question", n, timeout=10) for n in range(100))
        )
    assert answers == [n * 2 for n in range(100)]


async def test_a_handler_that_returns_nothing_answers_with_nothing(bus: Bus, name: str) -> None:
    agent = Agent(name)

    @agent.on("question")
    async def handle() -> None: ...

    async with bus.serving(agent):
        assert await bus.request(f"agent.{name}.question", None, timeout=10) is None


async def test_an_answer_given_early_is_the_only_one(bus: Bus, name: str) -> None:
    agent = Agent(name)

    @agent.on("question")
    async def handle(context: Context) -> str:
        await context.reply("early")
        return "late"

    @agent.on("flush")
    async def flush() -> str:
        return "flushed"

    async with bus.serving(agent):
        assert await bus.request(f"agent.{name}.question", None, timeout=10) == "early"
        # A second answer would have arrived before this one.
        assert await bus.request(f"agent.{name}.flush", None, timeout=10) == "flushed"
        assert bus.events.counts["late_reply"] == 0


async def test_manual_ack_answers_with_its_reply(bus: Bus, name: str) -> None:
    agent = Agent(name)

    @agent.on("question")
    async def handle(delivery: Delivery) -> None:
        await delivery.ack(reply={"by": "hand"})

    async with bus.serving(agent):
        assert await bus.request(f"agent.{name}.question", None, timeout=10) == {"by": "hand"}


async def test_an_ack_that_is_cancelled_while_it_answers_leaves_the_message_to_be_handled(
    bus: Bus, name: str
) -> None:
    agent, attempts = Agent(name, retry=Retry(max_retries=3, retry_delay=0.01)), []

    @agent.on("question")
    async def handle(delivery: Delivery) -> str:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            acking = asyncio.create_task(delivery.ack(reply="half"))
            await asyncio.sleep(0)
            acking.cancel()
            await asyncio.wait([acking])
            assert not delivery.settled
            raise ValueError("interrupted")
        return "whole"

    async with bus.serving(agent):
        answer = await bus.request(f"agent.{name}.question", None, timeout=10)
        assert answer in ("half", "whole")
        look = Look(bus, name)

        async def processed() -> bool:
            return await look.count("processed") == 1 and await look.unsettled() == 0

        await eventually(processed)


async def test_nobody_serving_is_a_timeout_and_the_request_expires_with_it(bus: Bus, name: str) -> None:
    begun = time.monotonic()
    with pytest.raises(RequestTimeout, match=name):
        await bus.request(f"agent.{name}.question", None, timeout=0.2)
    assert time.monotonic() - begun < 2
    agent, ran = Agent(name), []

    @agent.on("question")
    async def handle() -> None:
        ran.append(1)

    look = Look(bus, name)
    async with bus.serving(agent):

        async def expired() -> bool:
            return await look.count("expired") == 1

        await eventually(expired)
    assert ran == []


async def test_an_answer_that_comes_too_late_is_dropped_visibly(bus: Bus, name: str) -> None:
    agent, go_on = Agent(name), asyncio.Event()

    @agent.on("question")
    async def handle() -> str:
        await go_on.wait()
        return "too late"

    async with bus.serving(agent):
        with pytest.raises(RequestTimeout):
            await bus.request(f"agent.{name}.question", None, timeout=0.2)
        go_on.set()
        await eventually(lambda: bus.events.counts["late_reply"])


async def test_an_answer_for_a_process_that_is_gone_is_dropped_visibly(
    bus: Bus, broker: BrokerForTests, name: str
) -> None:
    agent, go_on, asked = Agent(name), asyncio.Event(), asyncio.Event()

    @agent.on("question")
    async def handle() -> str:
        asked.set()
        await go_on.wait()
        return "anybody there?"

    async with bus.serving(agent):
        async with Bus(broker.url, agent="short-lived") as asker:
            asking = asyncio.create_task(asker.request(f"agent.{name}.question", None, timeout=30))
            await asked.wait()
            asking.cancel()
            await asyncio.wait([asking])
        go_on.set()
        await eventually(lambda: bus.events.counts["reply_undeliverable"])
        look = Look(bus, name)

        async def processed() -> bool:
            return await look.count("processed") == 1

        await eventually(processed)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("rejected", "rejected"),
        ("failed", "exhausted"),
        ("invalid", "invalid"),
        ("unknown", "no_handler"),
        ("unserialisable", "invalid_reply"),
        ("discarded", "exhausted"),
        ("slow", "exhausted"),
    ],
)
async def test_a_request_that_will_never_be_answered_fails_at_once(
    bus: Bus, name: str, kind: str, reason: str
) -> None:
    agent = Agent(name, retry=Retry(max_retries=0))

    @agent.on("rejected")
    async def rejected() -> None:
        raise Reject("no")

    @agent.on("failed")
    async def failed() -> None:
        raise ValueError("broken")

    @agent.on("invalid")
    async def invalid(body: Question) -> None: ...

    @agent.on("unserialisable")
    async def unserialisable() -> object:
        return object()

    @agent.on("discarded", retry=Retry(max_retries=0, when_exhausted="discard"))
    async def discarded() -> None:
        raise ValueError

    @agent.on("slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)

    async with bus.serving(agent):
        begun = time.monotonic()
        with pytest.raises(RequestFailed) as failure:
            await bus.request(f"agent.{name}.{kind}", 5, timeout=30)
    assert failure.value.reason == reason
    assert time.monotonic() - begun < 5


async def test_a_request_that_expires_before_its_timeout_is_answered_when_it_is_met(
    bus: Bus, name: str
) -> None:
    agent, busy = Agent(name, concurrency=1), asyncio.Event()

    @agent.on("long")
    async def long() -> None:
        await busy.wait()

    @agent.on("question")
    async def handle() -> None: ...

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.long", None)
        asking = asyncio.create_task(bus.request(f"agent.{name}.question", None, timeout=30, ttl=0.05))

        async def expired() -> bool:
            look = Look(bus, name)
            return await look.waiting() == 1 and (await look.ledger())["accepted"] == 2

        await eventually(expired)
        await asyncio.sleep(0.06)
        busy.set()
        with pytest.raises(RequestFailed) as failure:
            async with asyncio.timeout(5):
                await asking
    assert failure.value.reason == "expired"


async def test_a_failure_that_is_tried_again_does_not_answer_yet(bus: Bus, name: str) -> None:
    agent = Agent(name, retry=Retry(max_retries=2, retry_delay=0.01))

    @agent.on("question")
    async def handle(context: Context) -> int:
        if context.attempt < 3:
            raise ValueError
        return context.attempt

    async with bus.serving(agent):
        assert await bus.request(f"agent.{name}.question", None, timeout=10) == 3


async def test_a_reply_address_that_is_none_harms_nobody(bus: Bus, name: str) -> None:
    agent, seen = Agent(name), []

    @agent.on("question")
    async def handle(message: Message) -> Any:
        seen.append(message.reply_to)
        return "answer"

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.question", None, reply_to="agent.somebody.else")
        await eventually(lambda: bus.events.counts["reply_undeliverable"])
    assert seen == ["agent.somebody.else"]


async def test_an_answer_that_the_broker_was_away_for_is_sent_again(
    bus: Bus, broker: BrokerForTests, name: str
) -> None:
    agent = Agent(name)
    await bus.rooms.broker.execute("SCRIPT", "LOAD", load("reply").text)
    sends: list[bytes] = []

    def first(request: bytes) -> bool:
        if load("reply").digest.encode() not in request:
            return False
        sends.append(request)
        return len(sends) == 1

    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent=name) as worker:

        @agent.on("question")
        async def handle(body: str) -> str:
            # Cut before the answer leaves: whatever the server has had of it, the asker gets one.
            proxy.reset()
            proxy.cut_after_request = first
            return body.upper()

        async with worker.serving(agent):
            assert await bus.request(f"agent.{name}.question", "ready?", timeout=10) == "READY?"
            await eventually(lambda: len(sends) == 2)
            look = Look(bus, name)

            async def processed() -> bool:
                return await look.count("processed") == 1 and await look.unsettled() == 0

            await eventually(processed)


async def test_the_reply_address_goes_with_its_process(broker: BrokerForTests, name: str) -> None:
    agent = Agent(name)

    @agent.on("question")
    async def handle() -> int:
        return 1

    async with Bus(broker.url, agent="watcher") as watcher, watcher.serving(agent):

        async def logs() -> set[bytes]:
            return set(await watcher.rooms.broker.execute("KEYS", "agentbus:{reply.*"))

        before = await logs()
        async with Bus(broker.url, agent="asker") as asker:
            assert await asker.request(f"agent.{name}.question", None, timeout=10) == 1
            (mine,) = await logs() - before
            assert await watcher.rooms.broker.execute("PTTL", mine) > 0
        assert await logs() == before
