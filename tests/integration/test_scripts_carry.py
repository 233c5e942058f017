"""Carrying between addresses: once for each origin, wherever it goes, also where there is no room."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus.broker.carry import Carrier, Death, Origin
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.inspection.inbox_view import inspect_inbox
from agentbus.broker.wake import Announcer
from agentbus.events import Events
from agentbus.testing import BrokerForTests
from tests.inboxes import WINDOW_MS, InboxBench, bench

ORIGIN = Origin("channel.design", "1-1", "retry")


@pytest.fixture
async def on(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[InboxBench]:
    async with bench(broker.url, f"agent.{unique('carried')}") as opened:
        yield opened


async def carry(on: InboxBench, origin: Origin = ORIGIN, **options: Any) -> Any:
    carrier = Carrier(on.broker, "scripts", WINDOW_MS, Announcer(on.broker, "scripts", Events()))
    message = json.dumps({"message_id": "m1", "message_type": "note", "body": {"content": 1}})
    return await carrier.carry(on.inbox.address, origin, "m1", message.encode(), **options)


async def closes(on: InboxBench) -> bool:
    return (await inspect_inbox(on.broker, "scripts", on.inbox.address)).ledger.closes


async def test_what_is_carried_twice_from_one_origin_is_there_once(on: InboxBench) -> None:
    first = await carry(on, priority="high", state={"attempt": 1})
    again = await carry(on)
    assert (again.place, again.known, first.known) == (first.place, True, False)
    other = await carry(on, Origin("channel.design", "1-2", "retry"))
    assert not other.known
    entries = await on.fetch()
    assert [json.loads(entry.state or "{}") for entry in entries] == [{"attempt": 1}, {}]
    assert await on.ledger("accepted") == 2
    assert await closes(on)


async def test_it_can_come_due_later(on: InboxBench) -> None:
    carried = await carry(on, delay_ms=1, state={"attempt": 2})
    assert carried.place == "due m1" and carried.due_ms is not None
    assert await carry(on, delay_ms=1) == (carried.place, True, None)
    while not (await on.inbox.promote(WINDOW_MS)).moved:
        pass
    (entry,) = await on.fetch()
    assert json.loads(entry.state) == {"attempt": 2}
    assert await closes(on)


async def test_it_can_arrive_as_a_dead_letter_and_is_parked_where_there_is_no_room(on: InboxBench) -> None:
    await on.call("HSET", on.keys.policy, "dead_limit", 1)
    death = Death("rejected", "not mine", "me.host.1", 1, 3)
    assert (await carry(on, death=death)).place.startswith("dead ")
    parked = await carry(on, Origin("channel.design", "1-2", "retry"), death=death)
    assert parked.place == "due m1" and parked.due_ms is not None
    ((_, fields),) = await on.call("XRANGE", on.keys.dead, "-", "+")
    letter = dict(zip(fields[::2], fields[1::2], strict=True))
    assert letter[b"reason"] == b"rejected" and letter[b"entry"] == b"1-1" and letter[b"attempts"] == b"1"
    assert await closes(on)


async def test_a_full_address_and_a_full_server_take_it_all_the_same(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    server = private_broker()
    async with bench(server.url, "agent.full") as on:
        await on.call("HSET", on.keys.policy, "limit", 1)
        await on.publish("x")
        await on.call("CONFIG", "SET", "maxmemory", "1mb")
        # `addresses` knows it already, so that nothing but the script is refused or not.
        carried = await carry(on)
        assert not carried.known
        assert await closes(on)
