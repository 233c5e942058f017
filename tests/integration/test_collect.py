"""A question to a channel: the answers of everybody who reads it, until a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from agentbus import (
    Agent,
    AgentSettings,
    Answer,
    Bus,
    BusSettings,
    ConfigurationError,
    Context,
    InvalidTopic,
    InvalidValue,
    Reject,
    RequestTimeout,
    Retry,
    Topic,
)
from agentbus.broker.keys import channel_keys, subscriber_keys
from agentbus.message.codec import decode
from agentbus.send.envelope import Sender
from agentbus.send.requests import Answering
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.proxy import Proxy

Unique = Callable[[str], str]
#: Says what a reader answers; an exception type stands for a failure, `...` for silence.
Say = Callable[[Any], Any]


class Objection(BaseModel):
    text: str


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="asker", settings=BusSettings(prefix=unique("p"))) as opened:
        yield opened


class Readers:
    """Readers of a log that answer what they read, each with a cursor of its own."""

    def __init__(self, bus: Bus, channel: str) -> None:
        self._bus = bus
        self._log = channel_keys(bus.settings.prefix, channel).log
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, name: str, say: Say, times: int = 1) -> None:
        """Begin to read from now on, and answer each question so many times."""
        await self._bus.rooms.broker.execute("XGROUP", "CREATE", self._log, name, "$", "MKSTREAM")
        self._tasks.append(asyncio.create_task(self._read(name, say, times)))

    async def _read(self, name: str, say: Say, times: int) -> None:
        rooms = self._bus.rooms
        answering = Answering(rooms.broker, self._bus.settings.prefix, self._bus.events, Sender(name), 10_000)
        link = rooms.broker.open_link()
        while True:
            found = await link.execute(
                "XREADGROUP", "GROUP", name, "one", "BLOCK", 200, "STREAMS", self._log, ">", timeout=5
            )
            for _, (_, text) in found[0][1] if found else ():
                message = decode(text)
                for _ in range(times):
                    answer = say(message.content)
                    if answer is ...:
                        continue
                    failure = {"reason": "rejected", "detail": "not mine"} if answer is ValueError else None
                    await answering.send(message, None if failure else answer, failure)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def readers(bus: Bus) -> AsyncIterator[Readers]:
    found = Readers(bus, "channel.design")
    yield found
    await found.close()


async def test_all_answers_are_collected_and_nobody_is_waited_for_any_longer(
    bus: Bus, readers: Readers
) -> None:
    await readers.add("anna", lambda body: None)
    await readers.add("bert", lambda body: {"text": f"against {body}"})
    await readers.add("carl", lambda body: ValueError)
    # The asker reads along, and is not asked by itself.
    await readers.add("asker", lambda body: ...)
    begun = time.monotonic()
    answers = await bus.collect("channel.design.objection", "tabs", deadline="20s")
    assert time.monotonic() - begun < 10
    assert (answers.asked, answers.missing, answers.complete) == (("anna", "bert", "carl"), (), True)
    said = {answer.agent: (answer.content, answer.failure, answer.detail) for answer in answers}
    assert said == {
        "anna": (None, None, ""),
        "bert": ({"text": "against tabs"}, None, ""),
        "carl": (None, "rejected", "not mine"),
    }
    assert all(abs(datetime.now(UTC) - answer.at) < timedelta(minutes=1) for answer in answers)
    assert [answer.at for answer in answers] == sorted(answer.at for answer in answers)
    assert answers[0] in answers and len(answers) == len(answers[:]) == 3


async def test_at_the_deadline_those_who_said_nothing_are_named(bus: Bus, readers: Readers) -> None:
    await readers.add("anna", lambda body: "fine")
    await readers.add("bert", lambda body: ...)
    answers = await bus.collect("channel.design.objection", "tabs", deadline="300ms")
    assert [(answer.agent, answer.content) for answer in answers] == [("anna", "fine")]
    assert (answers.missing, answers.complete) == (("bert",), False)


async def test_so_many_answers_as_are_expected_are_enough(bus: Bus, readers: Readers) -> None:
    for name in ("anna", "bert", "carl"):
        await readers.add(name, lambda body: "fine")
    await readers.add("dora", lambda body: ...)
    answers = await bus.collect("channel.design.objection", "tabs", deadline="20s", expect=2)
    assert (len(answers), answers.complete, len(answers.missing)) == (2, True, 2)
    await eventually(lambda: bus.events.counts["late_reply"] == 1)


async def test_an_agent_that_answers_again_counts_once(bus: Bus, readers: Readers) -> None:
    said = iter(range(10))
    await readers.add("anna", lambda body: next(said), times=3)
    await readers.add("bert", lambda body: ...)
    answers = await bus.collect("channel.design.objection", "tabs", deadline="1s", expect=2)
    assert [(answer.agent, answer.content) for answer in answers] == [("anna", 0)]
    assert not answers.complete


async def test_answers_can_be_read_as_they_come_and_left_at_any_time(bus: Bus, readers: Readers) -> None:
    for name in ("anna", "bert"):
        await readers.add(name, lambda body: {"text": "no"})
    topic = Topic("channel.design.objection", str, reply=Objection)
    asking = bus.collecting(topic, "tabs", deadline="20s")
    async for answer in asking:
        assert answer.content == Objection(text="no")
        break
    assert len(asking.missing) <= 1 and asking.asked == ("anna", "bert")
    with pytest.raises(ConfigurationError, match="asked once"):
        async for _ in asking:
            pass
    await eventually(lambda: not bus.rooms.replies._open)


async def test_an_answer_of_another_type_is_that_agents_failure_alone(bus: Bus, readers: Readers) -> None:
    await readers.add("anna", lambda body: {"text": "no"})
    await readers.add("bert", lambda body: 5)
    answers = await bus.collect("channel.design.objection", "tabs", deadline="20s", reply=Objection)
    found = {answer.agent: answer for answer in answers}
    assert found["anna"].content == Objection(text="no")
    assert (found["bert"].failure, found["bert"].content) == ("malformed", None)


async def test_nothing_to_say_is_an_answer_of_every_type(bus: Bus, readers: Readers) -> None:
    await readers.add("anna", lambda body: None)
    (answer,) = await bus.collect("channel.design.objection", "tabs", deadline="20s", reply=Objection)
    assert (answer.agent, answer.content, answer.failure) == ("anna", None, None)


async def test_where_nobody_subscribes_nobody_is_waited_for(bus: Bus) -> None:
    begun = time.monotonic()
    answers = await bus.collect("channel.design.objection", "tabs", deadline="20s")
    assert (list(answers), answers.asked, answers.missing, answers.complete) == ([], (), (), True)
    assert time.monotonic() - begun < 10
    (status,) = (await bus.status()).channels
    assert status.length == 1


async def test_what_cannot_be_asked_is_refused_and_nothing_is_sent(bus: Bus) -> None:
    with pytest.raises(InvalidTopic, match="ask it with request"):
        await bus.collect("agent.anna.question", "?")
    with pytest.raises(InvalidValue, match="expect"):
        await bus.collect("channel.design.question", "?", expect=0)
    for asked in (bus.request("channel.design.question", "?"), anext(bus.stream("channel.design.note", "?"))):
        with pytest.raises(InvalidTopic, match="collect"):
            await asked
    with pytest.raises(InvalidValue, match="delay"):
        await bus.collect("channel.design.question", "?", delay="5s")
    assert (await bus.status()).channels == ()


async def test_an_asker_that_is_cut_off_while_answers_arrive_gets_them_all(
    bus: Bus, broker: BrokerForTests, readers: Readers
) -> None:
    for name in ("anna", "bert", "carl"):
        await readers.add(name, lambda body: "fine")
    seen: list[Answer] = []
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent="far", settings=bus.settings) as asker:
        async for answer in asker.collecting("channel.design.objection", "tabs", deadline="20s"):
            seen.append(answer)
            proxy.reset()
    assert sorted(answer.agent for answer in seen) == ["anna", "bert", "carl"]


async def test_a_question_that_the_broker_does_not_take_is_an_error_and_no_silence(
    bus: Bus, broker: BrokerForTests
) -> None:
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent="far", settings=bus.settings) as asker:
        proxy.black_hole = True
        with pytest.raises(RequestTimeout, match="could not be asked within 300ms"):
            await asker.collect("channel.design.objection", "tabs", deadline="300ms")
        proxy.black_hole = False
        proxy.reset()


# --- with agents that subscribe ---


def objecting(name: str, says: Any) -> Agent:
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01), settings=AgentSettings(lease=2.0))

    @agent.on("channel.design.objection")
    async def handle(context: Context) -> Any:
        agent.state["attempts"] = agent.state.get("attempts", 0) + 1
        if says is ValueError and context.attempt == 1:
            raise ValueError("once")
        if isinstance(says, asyncio.Event):
            await says.wait()
        return name if says is ValueError else says

    return agent


async def test_subscribers_answer_by_what_their_handlers_return(bus: Bus) -> None:
    silent, failing, other = objecting("anna", None), objecting("bert", ValueError), Agent("carl")

    @other.on("channel.design.note")
    async def note() -> None: ...

    @other.on("objection")
    async def not_of_the_channel() -> str:
        return "not asked"

    own = Agent("asker")
    own.on("channel.design.objection")(lambda: "not asked either")
    rejecting = Agent("dora")

    @rejecting.on("channel.design.objection")
    async def reject() -> None:
        raise Reject("not mine")

    async with bus.serving(silent, failing, other, own, rejecting):
        answers = await bus.collect("channel.design.objection", "tabs", deadline="20s")
        again = await bus.collect("channel.design.objection", "spaces", deadline="20s")
    assert answers.complete and answers.asked == ("anna", "bert", "carl", "dora")
    # A handler that returns nothing has no objection; one that failed once objects by way of its inbox.
    assert {answer.agent: (answer.content, answer.failure) for answer in answers} == {
        "anna": (None, None), "bert": ("bert", None), "carl": (None, "no_handler"),
        "dora": (None, "rejected"),
    }  # fmt: skip
    assert (len(again), again.complete) == (4, True)
    assert failing.state["attempts"] == 4


async def test_a_subscriber_that_is_away_is_missing_and_no_answer_of_it_is_waited_for(bus: Bus) -> None:
    async with bus.serving(objecting("anna", "late")):
        pass
    here = objecting("bert", "fine")
    async with bus.serving(here):
        answers = await bus.collect("channel.design.objection", "tabs", deadline="500ms", durability="stream")
        assert ([answer.agent for answer in answers], answers.missing) == (["bert"], ("anna",))
    # The question expired with its deadline: who comes back later is not asked any more.
    late = objecting("anna", "late")
    async with bus.serving(late):
        last = await bus.collect("channel.design.objection", "spaces", deadline="20s", expect=1)
        assert [answer.agent for answer in last] == ["anna"]
    assert late.state["attempts"] == 1


async def test_a_subscriber_that_is_asked_again_after_its_answer_counts_once(bus: Bus) -> None:
    """It lost its lease between answer and settlement, as when it was cut off just then."""
    waits = asyncio.Event()
    anna, bert = objecting("anna", "first"), objecting("bert", waits)
    prefix = bus.settings.prefix

    @anna.on("channel.design.veto")
    async def veto(context: Context) -> str:
        times = anna.state["times"] = anna.state.get("times", 0) + 1
        await context.reply(times)
        if times == 1:
            # The lease goes before the settlement does.
            alive = subscriber_keys(prefix, "channel.design", "anna").alive
            await bus.rooms.broker.execute("DEL", alive)
            await asyncio.sleep(60)
        waits.set()
        return "done"

    @bert.on("channel.design.veto")
    async def yes() -> str:
        await waits.wait()
        return "yes"

    async with bus.serving(anna, bert):
        answers = await bus.collect("channel.design.veto", "tabs", deadline="30s")
    assert {answer.agent: answer.content for answer in answers} == {"anna": 1, "bert": "yes"}
    assert anna.state["times"] == 2
