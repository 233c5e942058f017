"""Answers in parts, on a real broker: in order, none twice, none missing without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentbus import (
    Agent,
    Bus,
    Context,
    MalformedMessage,
    PartsMissing,
    Reject,
    RequestFailed,
    RequestTimeout,
    Restarted,
    Retry,
    StreamRestarted,
)
from agentbus.broker.keys import reply_log
from agentbus.broker.scripts import load
from agentbus.message.reply_address import ReplyAddress
from agentbus.send import streaming
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.process import fleet
from tests.agents.program import Log, build
from tests.agents.waiting import eventually
from tests.proxy import Proxy

Unique = Callable[[str], str]
Parts = AsyncGenerator[Any, None]


class Word(BaseModel):
    text: str


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="asker") as opened:
        # A server that does not know the script answers NOSCRIPT, and the reply that is lost would be that.
        await opened.rooms.broker.execute("SCRIPT", "LOAD", load("reply").text)
        yield opened


@pytest.fixture
async def proxy(broker: BrokerForTests) -> AsyncIterator[Proxy]:
    async with Proxy(broker.url) as opened:
        yield opened


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("writer")


def counting(name: str, **options: Any) -> Agent:
    """An agent that yields the numbers below the body, each when `go_on` says so, if it is in the state."""
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01), **options)

    @agent.on("task")
    async def handle(body: int, context: Context) -> Parts:
        for number in range(body):
            if "go_on" in agent.state:
                await agent.state["go_on"].wait()
            yield number
        if context.attempt <= agent.state.get("fails", 0):
            raise ValueError("broken in the middle")
        agent.state["done"] = True

    return agent


async def test_what_a_generator_yields_arrives_as_parts_in_order(bus: Bus, name: str) -> None:
    agent = counting(name)

    @agent.on("words")
    async def words() -> AsyncIterator[Word]:
        for text in ("all", "is", "well"):
            yield Word(text=text)

    async with bus.serving(agent):
        assert [part async for part in bus.stream(f"agent.{name}.task", 300)] == list(range(300))
        said = [part async for part in bus.stream(f"agent.{name}.words", None, part=Word)]
        assert said == [Word(text="all"), Word(text="is"), Word(text="well")]
        with pytest.raises(MalformedMessage):
            [part async for part in bus.stream(f"agent.{name}.words", None, part=int)]
        # Who wants one answer gets all parts as one, and who asked nothing gets none.
        assert await bus.request(f"agent.{name}.task", 3, timeout=10) == [0, 1, 2]
        agent.state.clear()
        await bus.publish(f"agent.{name}.task", 3)
        await eventually(lambda: agent.state.get("done"))
    assert bus.events.counts["reply_undeliverable"] == 0


async def test_a_handler_sends_parts_by_hand_and_what_it_returns_is_the_last(bus: Bus, name: str) -> None:
    agent, wanted = Agent(name), []

    @agent.on("task")
    async def handle(context: Context) -> str:
        # At once: the order is that of the calls.
        wanted.extend(await asyncio.gather(*(context.send_part(n) for n in range(20))))
        return "done"

    @agent.on("plain")
    async def plain(body: Any) -> Any:
        return body

    async with bus.serving(agent):
        assert [part async for part in bus.stream(f"agent.{name}.task", None)] == [*range(20), "done"]
        assert await bus.request(f"agent.{name}.task", None, timeout=10) == "done"
        assert wanted == [True] * 20 + [False] * 20
        assert [part async for part in bus.stream(f"agent.{name}.plain", "only")] == ["only"]
        assert [part async for part in bus.stream(f"agent.{name}.plain", None)] == []


async def test_a_retry_begins_the_answer_anew_and_says_so(bus: Bus, name: str) -> None:
    agent = counting(name)
    agent.state["fails"] = 1
    async with bus.serving(agent):
        seen = []
        with pytest.raises(StreamRestarted) as restarted:
            async for part in bus.stream(f"agent.{name}.task", 3):
                seen.append(part)
        assert (seen, restarted.value.parts) == ([0, 1, 2], 3)
        marked = [part async for part in bus.stream(f"agent.{name}.task", 3, mark_restarts=True)]
        assert marked == [0, 1, 2, Restarted(attempt=2, parts=3), 0, 1, 2]
        agent.state["fails"] = 2
        with pytest.raises(RequestFailed, match="broken in the middle") as failed:
            [part async for part in bus.stream(f"agent.{name}.task", 3, mark_restarts=True)]
        assert failed.value.reason == "exhausted"


async def test_a_stream_that_stops_or_takes_too_long_times_out(bus: Bus, name: str) -> None:
    agent = counting(name)
    agent.state["go_on"] = asyncio.Event()
    async with bus.serving(agent):
        with pytest.raises(RequestTimeout, match="sent nothing for 100ms"):
            [part async for part in bus.stream(f"agent.{name}.task", 3, idle_timeout="100ms")]
        with pytest.raises(RequestTimeout, match="did not end its answer within 100ms"):
            [part async for part in bus.stream(f"agent.{name}.task", 3, timeout="100ms", idle_timeout="1h")]
        agent.state["go_on"].set()


async def test_parts_for_a_reader_who_left_are_dropped_as_one_event_and_the_work_is_done(
    bus: Bus, name: str
) -> None:
    agent = counting(name)
    go_on = agent.state["go_on"] = asyncio.Event()
    go_on.set()
    async with bus.serving(agent):
        async for part in bus.stream(f"agent.{name}.task", 50):
            if part == 0:
                go_on.clear()
                break
        await eventually(lambda: not bus.rooms.replies._open)
        go_on.set()
        await eventually(lambda: agent.state.get("done"))
        # One for all of its parts, and one for its end.
        await eventually(lambda: bus.events.counts["late_reply"] == 2)
        look = Look(bus, name)

        async def processed() -> bool:
            return await look.count("processed") == 1

        await eventually(processed)


async def test_the_work_for_a_process_that_is_gone_is_done_and_no_part_is_sent(
    bus: Bus, broker: BrokerForTests, name: str
) -> None:
    agent = counting(name)
    go_on = agent.state["go_on"] = asyncio.Event()
    async with bus.serving(agent):
        async with Bus(broker.url, agent="short-lived") as asker:
            stream = asker.stream(f"agent.{name}.task", 50)
            go_on.set()
            assert await anext(stream) == 0
            go_on.clear()
            await stream.aclose()
        go_on.set()
        await eventually(lambda: agent.state.get("done"))
        await eventually(lambda: bus.events.counts["reply_undeliverable"] == 1)


async def test_lost_parts_are_an_error_that_names_them(
    bus: Bus, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = counting(name)
    monkeypatch.setattr(streaming, "_MOST_HELD", 10)
    async with bus.serving(agent):
        stream = bus.stream(f"agent.{name}.task", 40)
        assert await anext(stream) == 0
        await eventually(lambda: agent.state.get("done"))
        # More came than are kept for a reader who does not read.
        await bus.request(f"agent.{name}.task", 0, timeout=10)
        with pytest.raises(PartsMissing, match=r"parts 1\d to 39 of the answer") as missing:
            [part async for part in stream]
    assert 10 <= missing.value.first <= missing.value.last == 39


async def test_a_part_whose_sending_was_not_answered_arrives_once(bus: Bus, proxy: Proxy, name: str) -> None:
    digest, hits = load("reply").digest.encode(), iter(range(1000))
    # Every third part: executed by the server, and its answer lost.
    proxy.lose_reply = lambda request: digest in request and next(hits) % 3 == 1
    async with Bus(proxy.url, agent=name) as worker, worker.serving(counting(name)):
        assert [part async for part in bus.stream(f"agent.{name}.task", 30)] == list(range(30))
    assert proxy.cuts >= 10


async def test_an_asker_that_is_cut_off_reads_on_where_it_was(bus: Bus, proxy: Proxy, name: str) -> None:
    agent = counting(name)
    seen = []
    async with Bus(proxy.url, agent="far") as asker, bus.serving(agent):
        async for part in asker.stream(f"agent.{name}.task", 300):
            seen.append(part)
            if part % 60 == 0:
                proxy.reset()
    assert seen == list(range(300))


async def test_a_reply_address_is_no_trouble_for_anybody_else(bus: Bus, name: str) -> None:
    """A stream asked by hand, with an address of nobody: the work is done all the same."""
    agent = counting(name)
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 3, reply_to="reply.nobody.1.parts")
        await eventually(lambda: agent.state.get("done"))
        await eventually(lambda: bus.events.counts["reply_undeliverable"])
    address = ReplyAddress.parse("reply.nobody.1.parts")
    assert address is not None
    assert not await bus.rooms.broker.execute("EXISTS", reply_log("agentbus", address.process))


async def test_a_rejected_stream_fails_at_once(bus: Bus, name: str) -> None:
    agent = Agent(name)

    @agent.on("task")
    async def handle() -> Parts:
        yield 1
        raise Reject("no more of it")

    async with bus.serving(agent):
        seen = []
        with pytest.raises(RequestFailed, match="no more of it"):
            async for part in bus.stream(f"agent.{name}.task", None):
                seen.append(part)
    assert seen == [1]


async def test_a_stream_whose_agent_is_killed_is_taken_over_and_begins_anew(
    bus: Bus, broker: BrokerForTests, name: str, tmp_path: Path
) -> None:
    options = {"name": name, "settings": {"lease": 2.0}}
    with fleet(broker.url, tmp_path) as agents:
        first = agents.start(**options)
        await first.joined(Look(bus, name))
        stream = bus.stream(f"agent.{name}.parts", {"parts": 4}, timeout=60, mark_restarts=True)
        before = [await anext(stream) for _ in range(3)]
        assert {part["pid"] for part in before} == {first.pid}
        first.kill()
        async with bus.serving(build(options, Log(str(agents.log)))):
            rest = [part async for part in stream]
    assert rest[0] == Restarted(attempt=1, parts=3)
    assert [part["part"] for part in rest[1:]] == [0, 1, 2, 3]
    assert first.pid not in {part["pid"] for part in rest[1:]}
