"""Direct messages and conversations, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from agentbus import (
    Agent,
    Bus,
    BusSettings,
    ConfigurationError,
    Context,
    InvalidTopic,
    InvalidValue,
    NoSuchAddress,
    NoSuchReceipts,
    NotYourConversation,
    Policy,
    QueueFull,
    RetentionSettings,
    UnknownRecipients,
)
from agentbus.broker.embedded import PrivateBroker
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.bindings import bind_before_anybody_asked, consenting, quicken
from tests.service import working
from workers.archive import Archive
from workers.retention import Retention

Unique = Callable[[str], str]
#: A hundred entries more than wanted may stay.
_KEPT = RetentionSettings(channel_messages=50)
OpenBus = Callable[[str | None], Awaitable[Bus]]


@pytest.fixture
async def open_bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[OpenBus]:
    """Open buses of one test in the names of agents."""
    settings = BusSettings(prefix=unique("dm"))
    async with AsyncExitStack() as buses:

        async def open_one(agent: str | None) -> Bus:
            return await buses.enter_async_context(Bus(broker.url, agent=agent, settings=settings))

        yield open_one


def _agent(name: str, seen: list[Any] | None = None) -> Agent:
    agent = Agent(name)

    @agent.on()
    async def take(context: Context) -> None:
        if seen is not None:
            seen.append(context.message)

    return agent


async def _known(bus: Bus, *names: str) -> None:
    async with bus.serving(*(_agent(name) for name in names)):
        pass


async def test_what_two_agents_say_is_in_their_conversation_and_in_the_inbox_of_whom_it_is_for(
    open_bus: OpenBus,
) -> None:
    ann, bob = await open_bus("ann"), await open_bus("bob")
    await _known(ann, "ann", "bob")
    seen: list[Any] = []
    sent = await ann.dm("bob", "have you seen #7?", correlation_id="pr-7")
    await bob.dm("ann", {"seen": True}, type="answer", correlation_id="pr-7")
    async with bob.serving(_agent("bob", seen)):
        (receipt,) = await sent.wait_all("processed", timeout="10s")
        assert receipt.agent == "bob" and receipt.read_at is not None
    (message,) = seen
    assert (message.message_id, message.message_type) == (sent.message_id, "dm")
    assert (message.recipients, message.recipient_mode, message.channel) == (("bob",), "direct", "dm:ann:bob")
    assert (message.from_agent, message.to_agent) == ("ann", "bob")
    for bus, other in ((ann, "bob"), (bob, "dm:bob:ann")):
        page = await bus.conversation(other, oldest_first=True)
        said = [(entry.message.from_agent, entry.message.content) for entry in page.entries if entry.message]
        assert said == [("ann", "have you seen #7?"), ("bob", {"seen": True})]
        assert page.complete
    assert [entry.message.content for entry in (await ann.history("dm:ann:bob", sender="bob")).entries] == [
        {"seen": True}
    ]
    trace = await ann.trace(sent.message_id)
    assert sorted(place.address for place in trace.places) == ["agent.bob", "dm:ann:bob"]
    assert {each.address for each in (await ann.status()).channels} == {"dm:ann:bob"}


async def test_conversations_show_what_is_unread_and_what_was_said_last(open_bus: OpenBus) -> None:
    ann, bob = await open_bus("ann"), await open_bus("bob")
    await _known(ann, "ann", "bob", "carl")
    for number in range(3):
        await ann.dm("bob", {"n": number})
    last = await ann.dm("carl", "x" * 500)
    (unread,) = await bob.conversations()
    assert (unread.name, unread.other, unread.unread) == ("dm:ann:bob", "ann", 3)
    assert unread.last is not None
    assert (unread.last.from_agent, unread.last.snippet) == ("ann", '{"n": 2}')
    with_carl, with_bob = await ann.conversations()
    assert (with_carl.other, with_carl.unread, with_bob.other, with_bob.unread) == ("carl", 0, "bob", 0)
    assert with_carl.last is not None and with_carl.last.message_id == last.message_id
    assert len(with_carl.last.snippet) == 120

    delivery = await bob.next("bob", timeout="5s")
    assert delivery is not None and delivery.message.content == {"n": 0}
    await delivery.ack()
    await eventually(lambda: _unread(bob, 2))
    second = await ann.dm("bob", "and?")
    await bob.mark_read("dm:ann:bob")
    assert await _unread(bob, 0)
    assert [row.reached("read") for row in await second.status()] == [True]
    assert [row.reached("processed") for row in await second.status()] == [False]
    third = await ann.dm("bob", "well?")
    assert await _unread(bob, 1)
    await bob.mark_read(third.message_id)
    assert await _unread(bob, 0)
    with pytest.raises(NoSuchReceipts, match="ann was sent no message"):
        await ann.mark_read(third.message_id)


async def _unread(bus: Bus, count: int) -> bool:
    (conversation,) = await bus.conversations()
    return conversation.unread == count


async def test_a_handler_that_begins_has_read_the_conversation_so_far(open_bus: OpenBus) -> None:
    ann, bob = await open_bus("ann"), await open_bus("bob")
    agent, begun, go_on = Agent("bob"), asyncio.Event(), asyncio.Event()

    @agent.on("dm")
    async def take() -> None:
        begun.set()
        await go_on.wait()

    async with bob.serving(agent):
        await ann.dm("bob", "hello")
        await begun.wait()
        await eventually(lambda: _unread(bob, 0))
        go_on.set()


async def test_a_position_never_goes_back(open_bus: OpenBus) -> None:
    ann, bob = await open_bus("ann"), await open_bus("bob")
    await _known(ann, "bob")
    first = await ann.dm("bob", 1)
    await ann.dm("bob", 2)
    await bob.mark_read("dm:ann:bob")
    await bob.mark_read(first.message_id)
    assert await _unread(bob, 0)


async def test_other_peoples_conversations_are_refused(open_bus: OpenBus) -> None:
    ann, eve, nobody = await open_bus("ann"), await open_bus("eve"), await open_bus(None)
    await _known(ann, "bob")
    sent = await ann.dm("bob", "between us")
    refused: list[Callable[[], Awaitable[Any]]] = [
        lambda: eve.history("dm:ann:bob"),
        lambda: eve.history("dm:bob:ann"),
        lambda: eve.conversation("dm:ann:bob"),
        lambda: eve.trace(sent.message_id, "dm:ann:bob"),
        lambda: eve.trace_conversation(sent.message_id, "dm:ann:bob"),
        lambda: eve.replay("dm:ann:bob", to="eve", allow_unknown=True),
        lambda: eve.mark_read("dm:ann:bob"),
        lambda: nobody.history("dm:ann:bob"),
    ]
    for look in refused:
        with pytest.raises(NotYourConversation, match="between ann and bob"):
            await look()
    assert await eve.conversations() == []
    with pytest.raises(NoSuchAddress):
        await eve.conversation("ann")


async def test_copies_in_inboxes_are_for_the_two_as_well(open_bus: OpenBus) -> None:
    ann, bob, eve = await open_bus("ann"), await open_bus("bob"), await open_bus("eve")
    nobody = await open_bus(None)
    await _known(ann, "bob")
    sent = await ann.dm("bob", "between us", correlation_id="c")
    await ann.publish("agent.bob.task", "for all to see", correlation_id="c")
    for other in (eve, nobody):
        with pytest.raises(NotYourConversation, match="is a direct message of dm:ann:bob"):
            await other.trace(sent.message_id)
        page = await other.history("bob")
        assert [entry.message.content for entry in page.entries if entry.message] == ["for all to see"]
        assert ([gap.kind for gap in page.gaps], page.complete) == (["private"], False)
        told = await other.trace_conversation("c")
        assert [turn.message.content for turn in told.turns] == ["for all to see"]
        assert (told.private, told.complete) == (True, False)
    for one in (ann, bob):
        assert len((await one.history("bob")).entries) == len((await one.trace_conversation("c")).turns) == 2
        assert (await one.trace(sent.message_id)).message is not None
    async with bob.pulling("bob") as puller:
        for _ in range(2):
            delivery = await puller.next(10)
            assert delivery is not None
            await delivery.ack()
    done = await eve.replay("bob", to="eve", allow_unknown=True)
    assert (done.count, [gap.kind for gap in done.gaps]) == (1, ["private"])
    # Who replays for its rightful owner does not read it.
    assert (await eve.replay("bob", to="bob")).count == 2


async def test_what_is_wrong_with_a_direct_message_is_said_before_anything_is_sent(open_bus: OpenBus) -> None:
    ann, nobody = await open_bus("ann"), await open_bus(None)
    await _known(ann, "bob")
    with pytest.raises(InvalidValue, match="to: ann is the sender itself"):
        await ann.dm("ann", "hm")
    with pytest.raises(UnknownRecipients, match=r"bop \(did you mean bob\?\)"):
        await ann.dm("bop", "hello")
    with pytest.raises(InvalidValue, match="to: 'B O B' is not a name"):
        await ann.dm("B O B", "hello")
    for call in (lambda: nobody.dm("bob", 1), nobody.conversations, lambda: nobody.conversation("bob")):
        with pytest.raises(ConfigurationError, match="need a name to act under"):
            await call()
    for topic in ("dm:ann:bob.note", "dm:ann:bob", "dm.ann.note"):
        with pytest.raises(InvalidTopic, match=r"bus\.dm"):
            await ann.publish(topic, 1)
    with pytest.raises(InvalidTopic, match=r"bus\.dm"):
        await ann.send("note", 1, to=["bob"], channel="dm:ann:bob")
    with pytest.raises(InvalidTopic, match="no conversation"):
        await ann.history("dm:ann")
    assert await ann.conversations() == []
    assert await Look(ann, "bob").unsettled() == 0


async def test_an_inbox_that_refuses_raises_and_the_word_stays_said(open_bus: OpenBus) -> None:
    ann = await open_bus("ann")
    await _known(ann, "bob")
    await ann.declare("agent.bob", Policy(limit=1))
    await ann.dm("bob", "one")
    with pytest.raises(QueueFull):
        await ann.dm("bob", "two")
    assert len((await ann.conversation("bob")).entries) == 2


async def test_direct_messages_never_match_a_wildcard(
    open_bus: OpenBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch)
    ann, bob, eve = await open_bus("ann"), await open_bus("bob"), await open_bus("eve")
    await bind_before_anybody_asked(eve, "eve", "agent.bob.>", ">")
    watching = eve.watch(">", stored=True, everything=True)
    async with bob.serving(consenting("bob", "*")), watching as events:
        sent = await ann.dm("bob", "between us", type="note")
        (to_bob,) = sent.recipients
        assert to_bob.stored is not None and to_bob.stored.copies == 0
        await ann.publish("agent.bob.note", "for all to hear")
        async with asyncio.timeout(10.0):
            assert (await anext(aiter(events))).content == "for all to hear"
    heard = [entry.message.content for entry in (await eve.history("agent.eve")).entries if entry.message]
    assert set(heard) == {"for all to hear"}


async def test_conversations_are_trimmed_and_archived_as_channels_are(
    open_bus: OpenBus, postgres_dsn: str
) -> None:
    ann = await open_bus("ann")
    await _known(ann, "bob")
    await asyncio.gather(*(ann.dm("bob", number) for number in range(160)))
    async with working(ann, Archive, Retention, archive=postgres_dsn, retention=_KEPT):
        await eventually(lambda: _log_length(ann, 100), 15.0)
    settings = replace(ann.settings, archive=postgres_dsn)
    async with Bus(ann._url, agent="bob", settings=settings) as bob:
        page = await bob.conversation("ann", limit=1000)
    assert page.complete
    assert sorted(entry.message.content for entry in page.entries if entry.message) == list(range(160))


async def _log_length(bus: Bus, most: int) -> bool:
    return int(await bus.rooms.broker.execute("XLEN", f"{bus.settings.prefix}:{{dm:ann:bob}}:log")) <= most


async def test_a_direct_message_survives_a_broker_that_restarts_meanwhile(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker(appendfsync="always")
    async with Bus(server.url, agent="ann") as ann:
        await _known(ann, "bob")
        sending = [asyncio.create_task(ann.dm("bob", number)) for number in range(20)]
        server.kill()
        server.start()
        for sent in await asyncio.gather(*sending):
            assert sent.refused == {}
    async with Bus(server.url, agent="bob") as bob:
        assert await Look(bob, "bob").waiting() == 20
        page = await bob.conversation("ann")
        assert sorted(entry.message.content for entry in page.entries if entry.message) == list(range(20))
        seen: list[Any] = []
        async with bob.serving(_agent("bob", seen)):
            await eventually(lambda: len(seen) == 20)
            await eventually(lambda: _unread(bob, 0))
