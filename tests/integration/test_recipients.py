"""One message to several named agents, and its receipts, on a real broker."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentbus import (
    Agent,
    Bus,
    BusSettings,
    Context,
    InvalidTopic,
    InvalidValue,
    NoSuchReceipts,
    Policy,
    PublishTimeout,
    QueueFull,
    ReceiptTimeout,
    Reject,
    Sent,
    Stored,
    UnknownRecipients,
)
from agentbus.broker.embedded import PrivateBroker
from agentbus.recipients.reconciling import Reconciler
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.process import fleet
from tests.agents.waiting import eventually

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=unique("many"))) as opened:
        yield opened


def _agent(name: str, seen: list[Any] | None = None) -> Agent:
    agent = Agent(name)

    @agent.on("note")
    async def note(context: Context) -> None:
        if seen is not None:
            seen.append(context.message)

    @agent.on("hopeless")
    async def hopeless() -> None:
        raise Reject("not mine")

    @agent.on("question")
    async def question(context: Context) -> str:
        await context.acknowledge()
        return "nobody hears this"

    return agent


async def _known(bus: Bus, *names: str) -> None:
    """Let agents have been served once."""
    async with bus.serving(*(_agent(name) for name in names)):
        pass


async def test_every_named_agent_has_the_same_message_once_and_receipts_tell_how_far_it_is(bus: Bus) -> None:
    seen: list[Any] = []
    await _known(bus, "late")
    async with bus.serving(_agent("ann", seen), _agent("bob", seen)):
        sent = await bus.send("note", {"n": 1}, to=["ann", "bob", "late"], priority="high")
        with pytest.raises(ReceiptTimeout, match="not processed within 300ms by late") as caught:
            await sent.wait_all("processed", timeout=0.3)
    assert caught.value.missing == ("late",)
    assert sent.refused == {} and sent.logged is None
    assert sorted(message.to_agent for message in seen) == ["ann", "bob"]
    for message in seen:
        assert message.message_id == sent.message_id
        assert (message.recipients, message.recipient_mode) == (("ann", "bob", "late"), "multi")
        assert (message.content, message.priority, message.channel) == ({"n": 1}, "high", None)
    ann, bob, late = await sent.status()
    for receipt in (ann, bob):
        assert receipt.stored_at <= receipt.delivered_at <= receipt.read_at <= receipt.processed_at
        assert receipt.refused is None
    assert set(late.to_record()) == {
        "agent", "stored_at", "delivered_at", "read_at", "processed_at", "refused", "acknowledged",
    }  # fmt: skip
    assert late.stored_at == sent.recipients[2].stored_at and late.delivered_at is None
    async with bus.serving(_agent("late", seen)):
        assert [row.reached("read") for row in await sent.wait_all("read")] == [True] * 3
    assert len(seen) == 3


async def test_a_message_within_a_channel_stands_in_its_log_and_in_the_inboxes_of_the_named(bus: Bus) -> None:
    await _known(bus, "ann", "bob", "carl")
    sent = await bus.send("note", "look", to=["ann", "bob"], channel="channel.design")
    assert sent.logged is not None
    page = await bus.history("channel.design")
    assert [entry.message.message_id for entry in page.entries if entry.message] == [sent.message_id]
    for name, count in (("ann", 1), ("bob", 1), ("carl", 0)):
        waiting = await Look(bus, name).waiting()
        assert waiting == count, name
    handled: list[str | None] = []
    reader = Agent("ann")

    @reader.on("note")
    async def named(context: Context) -> None:
        handled.append(context.message.channel)

    @reader.on("channel.design.note", start="beginning")
    async def everybody(context: Context) -> None:
        handled.append(context.message.content)

    async with bus.serving(reader):
        await bus.publish("channel.design.note", "for everybody")
        await eventually(lambda: len(handled) == 2)
    # The one who is named has it once: for the channel's readers it is there to be read.
    assert sorted(map(str, handled)) == ["channel.design", "for everybody"]


async def test_what_is_wrong_with_recipients_is_said_before_anything_is_sent(bus: Bus) -> None:
    await _known(bus, "reviewer")
    with pytest.raises(UnknownRecipients, match=r"reviwer \(did you mean reviewer\?\), zebra"):
        await bus.send("note", 1, to=["reviewer", "reviwer", "zebra"], channel="channel.design")
    wrong: list[tuple[Any, str]] = [
        ([], "empty"),
        ("reviewer", "must be a list"),
        (["reviewer", "ann", "reviewer"], "names reviewer more than once"),
        ([f"a{number}" for number in range(10_000)], "names 10,000 agents; at most 1,000"),
        (["reviewer", "No Name"], "'No Name' is not a name"),
        (["reviewer", 7], "7 is not a name"),
    ]
    for to, problem in wrong:
        with pytest.raises(InvalidValue, match=problem) as caught:
            await bus.send("note", 1, to=to)
        assert caught.value.field == "to"
    with pytest.raises(InvalidTopic, match="is a topic; give the type"):
        await bus.send("channel.design.note", 1, to=["reviewer"])
    with pytest.raises(InvalidTopic, match=r"agent\.bob is an inbox"):
        await bus.send("note", 1, to=["reviewer"], channel="agent.bob")
    with pytest.raises(InvalidValue, match="body"):
        await bus.send("note", {"s": object()}, to=["reviewer"])
    assert await Look(bus, "reviewer").unsettled() == 0
    assert [key async for key in _keys(bus) if b"receipts" in key or b"{channel." in key] == []
    sent = await bus.send("note", 1, to=["zebra"], allow_unknown=True)
    assert isinstance(sent.recipients[0].stored, Stored)
    with pytest.raises(NoSuchReceipts):
        await bus.receipts("nothing")


async def _keys(bus: Bus) -> AsyncIterator[bytes]:
    for key in await bus.rooms.broker.execute("KEYS", f"{bus.settings.prefix}:*"):
        yield key


async def test_a_full_inbox_is_a_refused_row_and_hides_nothing_of_the_others(bus: Bus) -> None:
    await _known(bus, "ann", "full", "bob")
    await bus.declare("agent.full", Policy(limit=1))
    await bus.publish("agent.full.note", 1)
    sent = await bus.send("note", 2, to=["ann", "full", "bob"])
    assert isinstance(sent.refused["full"], QueueFull) and len(sent.refused) == 1
    rows = {row.agent: row for row in await sent.status()}
    assert rows["full"].refused is not None and rows["full"].refused.startswith("QueueFull: agent.full holds")
    assert rows["full"].stored_at is None and rows["ann"].stored_at and rows["bob"].stored_at
    assert [row.agent for row in await sent.wait_all("stored", timeout="1s")] == ["ann", "full", "bob"]


async def test_a_message_that_ends_without_success_is_refused_with_the_reason(bus: Bus) -> None:
    await _known(bus, "gone")
    async with bus.serving(_agent("ann")):
        sent = await bus.send("hopeless", None, to=["ann"])
        short = await bus.send("note", None, to=["gone"], ttl=0.01)
        (row,) = await sent.wait_all("processed", timeout="5s")
        assert (row.refused, row.processed_at) == ("dead: rejected: not mine", None)
        assert row.read_at is not None
    await asyncio.sleep(0.02)
    assert await bus.next("gone", timeout=0.05) is None
    (row,) = await short.status()
    assert (row.refused, row.delivered_at) == ("expired", None)


async def test_read_without_a_reply_is_an_answer_of_its_own(bus: Bus) -> None:
    await _known(bus, "ann")
    async with bus.serving(_agent("ann")):
        sent = await bus.send("question", "ready?", to=["ann"])
        (row,) = await sent.wait_all("processed", timeout="5s")
        assert row.acknowledged and row.read_at and row.refused is None
        assert await bus.request("agent.ann.question", "ready?", reply=str, timeout="5s") is None
        assert [part async for part in bus.stream("agent.ann.question", "ready?", timeout="5s")] == []
    agent = Agent("bob")

    @agent.on("channel.design.question")
    async def question(context: Context) -> None:
        await context.acknowledge()

    async with bus.serving(agent):
        answers = await bus.collect("channel.design.question", 1, deadline="5s", reply=str)
    (answer,) = answers
    assert (answer.agent, answer.content, answer.failure, answers.missing) == ("bob", None, None, ())


async def test_a_pulled_message_is_delivered_and_read_when_its_owner_says_so(bus: Bus) -> None:
    await _known(bus, "ann")
    sent = await bus.send("note", 1, to=["ann"])
    delivery = await bus.next("ann", timeout="5s")
    assert delivery is not None
    (row,) = await sent.wait_all("delivered", timeout="5s")
    assert row.read_at is None
    await delivery.mark_read()
    (row,) = await sent.status()
    assert row.read_at is not None and row.processed_at is None
    await delivery.acknowledge()
    (row,) = await sent.wait_all("processed", timeout="5s")
    assert row.acknowledged


async def test_a_send_that_is_repeated_with_its_key_completes_the_first_one(bus: Bus) -> None:
    await _known(bus, "ann", "bob")
    first = await bus.send("note", 1, to=["ann"], key="release-7")
    again = await bus.send("note", 1, to=["ann", "bob"], key="release-7")
    assert first.message_id == again.message_id
    assert [await Look(bus, name).waiting() for name in ("ann", "bob")] == [1, 1]
    assert [row.agent for row in await again.status() if row.stored_at] == ["ann", "bob"]


async def test_a_broker_that_restarts_in_the_middle_of_a_send_to_fifty_doubles_and_loses_nothing(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker(appendfsync="always")
    names = [f"agent-{number}" for number in range(50)]
    async with Bus(server.url, agent="planner") as bus:
        for number in range(3):
            sending = asyncio.create_task(
                bus.send("note", number, to=names, channel="channel.all", allow_unknown=True)
            )
            await eventually(partial(_begun, bus, number))
            server.kill()
            server.start()
            sent: Sent = await sending
            assert sent.refused == {}
            rows = await sent.wait_all("stored", timeout="10s")
            assert [row.agent for row in rows] == names and not any(row.refused for row in rows)
        for name in names:
            contents = [entry.message.content async for entry in _entries(bus, name)]
            assert contents == [0, 1, 2], name


_SENDER = """
import asyncio, sys
from agentbus import Bus

async def main(url, names):
    async with Bus(url, agent="planner") as bus:
        await bus.send("note", "x" * 200_000, to=names.split(), key="once", allow_unknown=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_sender_that_is_killed_while_it_sends_is_completed_by_another_with_its_key(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    names = [f"agent-{number}" for number in range(50)]
    async with Bus(server.url, agent="planner") as bus:
        sender = _sender(server.url, names)
        try:
            await eventually(lambda: _has_one(bus, names[0]), pause=0.0)
        finally:
            sender.kill()
            sender.wait()
        had = [name for name in names if await Look(bus, name).waiting()]
        sent = await bus.send("note", "x" * 200_000, to=names, key="once", allow_unknown=True)
        assert sent.refused == {}
        assert sum(bool(each.stored and each.stored.duplicate) for each in sent.recipients) == len(had)
        assert [await Look(bus, name).waiting() for name in names] == [1] * 50
        assert [row.agent for row in await sent.wait_all("stored", timeout="5s")] == names


def _sender(url: str, names: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _SENDER, url, " ".join(names)])


async def _has_one(bus: Bus, name: str) -> bool:
    return bool(await bus.rooms.broker.execute("EXISTS", Look(bus, name).keys.sources[3]))


async def _begun(bus: Bus, number: int) -> bool:
    """Whether the send has begun: its word is in the log, or copies in inboxes."""
    length = await bus.rooms.broker.execute("XLEN", "agentbus:{channel.all}:log")
    return int(length) > number


async def _entries(bus: Bus, name: str) -> AsyncIterator[Any]:
    page = await bus.history(f"agent.{name}", oldest_first=True)
    for entry in page.entries:
        yield entry


async def test_receipts_are_true_although_a_recipient_was_killed_after_it_had_settled(
    broker: BrokerForTests, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marks never leave it: nothing of what it did is in the receipts when it is killed."""
    names = [unique("mortal"), unique("other")]
    async with Bus(broker.url, agent="planner") as bus:
        with fleet(broker.url, tmp_path) as processes:
            mortal = processes.start(names[0], marks=False)
            await mortal.joined(Look(bus, names[0]))
            sent = await bus.send("note", {"n": 1}, to=names, allow_unknown=True)
            await eventually(lambda: _processed(bus, names[0]))
            mortal.send(signal.SIGKILL)
        with monkeypatch.context() as without:
            without.setattr(Reconciler, "reconcile", _as_they_are)
            assert [row.delivered_at for row in await sent.status()] == [None, None]
        row, other = await sent.status()
        assert row.delivered_at and row.read_at and row.processed_at and row.refused is None
        assert row.stored_at <= row.processed_at
        assert (other.stored_at is not None, other.delivered_at) == (True, None)
        # Found out once, and written down.
        assert (await sent.wait_all("stored"))[0] == row


async def _as_they_are(_self: Reconciler, rows: Any) -> Any:
    return rows


async def _processed(bus: Bus, name: str) -> bool:
    return await Look(bus, name).count("processed") == 1


async def test_receipts_of_a_sender_that_died_while_sending_say_who_has_it(bus: Bus) -> None:
    await _known(bus, "ann", "bob")
    sent = await bus.send("note", 1, to=["ann", "bob"])
    rows = f"{bus.settings.prefix}:{{receipts.{sent.message_id}}}:rows"
    # As if it had died before it could note who has a copy, and before one of the copies.
    for field in ("ann:stored", "ann:entry", "bob:stored", "bob:entry"):
        await bus.rooms.broker.execute("HDEL", rows, field)
    await bus.rooms.broker.execute("DEL", Look(bus, "bob").keys.sources[3])
    ann, bob = await sent.status()
    assert ann.stored_at == sent.recipients[0].stored_at
    assert (bob.stored_at, bob.refused) == (None, None)


async def test_a_full_server_is_named_by_what_could_not_be_sent(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with Bus(server.url, agent="planner") as bus:
        async with bus.serving(Agent("ann")):
            pass
        await bus.rooms.broker.execute("CONFIG", "SET", "maxmemory", 1)
        for call in (
            lambda: bus.send("note", 1, to=["ann"], deadline="200ms"),
            lambda: bus.dm("ann", 1, deadline="200ms"),
        ):
            with pytest.raises(PublishTimeout, match=r"nothing was sent before .*: .* memory limit"):
                await call()
