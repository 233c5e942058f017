"""Bindings while connections, keys and publishers fail: nothing missed in silence, nothing doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentbus import Bus, BusSettings, PublisherSettings, PublishTimeout
from agentbus.bindings import companion as companion_module
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.keys import inbox_keys
from agentbus.broker.scripts import load
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually, stays
from tests.bindings import bind_before_anybody_asked, collector, consenting, contents, quicken
from tests.proxy import Proxy, nothing
from tests.publishing import is_publish, once

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bus]:
    async with Bus(broker.url, agent="sender", settings=BusSettings(prefix=unique("bound"))) as opened:
        yield opened


@asynccontextmanager
async def _behind_a_proxy(broker: BrokerForTests, bus: Bus) -> AsyncIterator[tuple[Bus, Proxy]]:
    settings = BusSettings(prefix=bus.settings.prefix, command_timeout=0.5, publisher=PublisherSettings())
    async with Proxy(broker.url) as proxy, Bus(proxy.url, agent="sender", settings=settings) as sender:
        try:
            yield sender, proxy
        finally:
            proxy.cut_after_request = proxy.lose_reply = nothing
            proxy.black_hole, proxy.delay = False, 0.0


def _is_carry(request: bytes) -> bool:
    return load("carry").digest.encode() in request or b"once for each origin" in request


@pytest.mark.usefixtures("quick")
async def test_a_publisher_that_cannot_renew_an_old_table_sends_nothing(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    asks = f"{bus.settings.prefix}:bindings".encode()
    async with _behind_a_proxy(broker, bus) as (sender, proxy):
        await sender.publish("channel.design.note", 0)
        await bind_before_anybody_asked(bus, "observer", "channel.design.*")
        proxy.cut_after_request = lambda request: asks in request
        # With the table of before it may go on for a second, and no longer.
        await eventually(lambda: not sender.rooms.table.fresh)
        with pytest.raises(PublishTimeout) as late:
            await sender.publish("channel.design.note", "with an old table", deadline="400ms")
        assert not late.value.uncertain
        assert await client.xlen(f"{bus.settings.prefix}:{{channel.design}}:log") == 1
        waiting = asyncio.create_task(sender.publish("channel.design.note", 1))
        await eventually(lambda: proxy.cuts > 2)
        proxy.cut_after_request = nothing
        assert (await waiting).copies == 1
    assert await contents(client, bus.settings, "observer") == [1]


async def test_answers_slower_than_the_age_limit_do_not_keep_a_publisher_from_sending(
    broker: BrokerForTests, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch, 0.02)
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    async with _behind_a_proxy(broker, bus) as (sender, proxy):
        proxy.delay = 0.03
        stored = await asyncio.gather(*(sender.publish(f"channel.design.{kind}", 1) for kind in "abc"))
        assert {one.copies for one in stored} == {1}


async def test_a_copy_that_is_refused_is_told_counted_and_repaired_by_its_key(bus: Bus, client: Any) -> None:
    broken = inbox_keys(bus.settings.prefix, "agent.observer").ledger
    await client.set(broken, "somebody's mistake")
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    await bind_before_anybody_asked(bus, "second", "channel.design.*")
    stored = await bus.publish("channel.design.note", 1, key="k")
    (refused,) = stored.refused_copies
    assert (stored.copies, refused.agent, refused.reason) == (1, "observer", "refused")
    assert broken in refused.detail
    await client.delete(broken)
    again = await bus.publish("channel.design.note", 1, key="k")
    assert (again.duplicate, again.copies, again.refused_copies) == (True, 2, ())
    for agent in ("observer", "second"):
        assert await contents(client, bus.settings, agent) == [1]
    counted = {
        binding.agent: (binding.copied, binding.refused)
        for binding in await eventually(lambda: _all_counted(bus))
    }
    assert counted == {"observer": (1, {"refused": 1}), "second": (1, {})}


async def _all_counted(bus: Bus) -> Any:
    bindings = await bus.bindings()
    return bindings if sum(binding.copied for binding in bindings) == 2 else None


async def test_copies_that_nobody_confirms_end_with_the_deadline_of_their_sender(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    async with _behind_a_proxy(broker, bus) as (sender, proxy):
        proxy.lose_reply = _is_carry
        loop = asyncio.get_running_loop()
        began = loop.time()
        stuck, hasty = await asyncio.gather(
            sender.publish("channel.design.note", 1, deadline="600ms", key="k"),
            sender.publish("channel.design.note", 2, deadline="300ms"),
        )
        assert loop.time() - began < 1.5
        for stored in (stuck, hasty):
            assert stored.entry_id is not None
            assert [(one.agent, one.reason) for one in stored.refused_copies] == [("observer", "deadline")]
        proxy.lose_reply = nothing
        again = await sender.publish("channel.design.note", 1, key="k")
        assert (again.duplicate, again.copies) == (True, 1)
    # Carried by the first attempt, whose answers were lost, and known ever since.
    assert (await contents(client, bus.settings, "observer")).count(1) == 1


async def test_a_batch_whose_answer_was_lost_is_copied_once_whatever_its_keys(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    await bind_before_anybody_asked(bus, "observer", "agent.planner.*")
    await bus.rooms.bindings.consent("agent.planner", "planner", ("*",))
    async with _behind_a_proxy(broker, bus) as (sender, proxy):
        # The server must know the script, or the answer that is lost would say that it does not.
        await sender.publish("agent.other.task", 0)
        proxy.lose_reply = once(is_publish)

        def publish(number: int) -> Any:
            options: dict[str, Any] = {"key": str(number)} if number % 2 else {}
            return sender.publish("agent.planner.task", number, **options)

        results = await asyncio.gather(*(publish(number) for number in range(6)))
        assert proxy.cuts == 1
        # Nobody knows the entries of a batch that was answered from the record.
        assert {(one.entry_id, one.copies) for one in results} == {(None, 1)}
        again = await asyncio.gather(publish(1), publish(3))
        assert {(one.duplicate, one.copies) for one in again} == {(True, 1)}
    assert sorted(await contents(client, bus.settings, "observer")) == list(range(6))


_DIES = """
import asyncio, os, sys
from agentbus import Bus, BusSettings
from agentbus.broker.carry import Carrier

async def die(*_, **__):
    os._exit(9)

async def main(url, prefix):
    Carrier.carry_all = die
    async with Bus(url, agent="sender", settings=BusSettings(prefix=prefix)) as bus:
        await bus.publish("channel.design.note", "once", key="k")

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_publisher_that_died_between_storing_and_copying_is_made_good_by_its_key(
    broker: BrokerForTests, bus: Bus, client: Any
) -> None:
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DIES, broker.url, bus.settings.prefix
    )
    assert await process.wait() == 9
    assert await client.xlen(f"{bus.settings.prefix}:{{channel.design}}:log") == 1
    assert await contents(client, bus.settings, "observer") == []
    stored = await bus.publish("channel.design.note", "once", key="k")
    assert (stored.duplicate, stored.copies) == (True, 1)
    assert await contents(client, bus.settings, "observer") == ["once"]
    ((_, original),) = await client.xrange(f"{bus.settings.prefix}:{{channel.design}}:log")
    ((_, copy),) = await client.xrange(inbox_keys(bus.settings.prefix, "agent.observer").sources[3])
    assert json.loads(copy[b"message"]) == {
        **json.loads(original[b"message"]),
        "copy_of": "channel.design.note",
    }


async def test_a_fork_asks_for_a_table_of_its_own(bus: Bus, client: Any) -> None:
    await bus.publish("channel.design.note", 0)
    await bind_before_anybody_asked(bus, "observer", "channel.design.*")
    # A question that is under way belongs to the parent: its answer never comes here.
    asking = asyncio.create_task(bus.rooms.table._refresh())
    bus.rooms.table._refreshing = asking
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            code = asyncio.run(_copies_from_child(bus))
        finally:
            os._exit(code)
    await asking
    assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
    assert await contents(client, bus.settings, "observer") == ["child"]


async def _copies_from_child(bus: Bus) -> int:
    return 0 if (await bus.publish("channel.design.note", "child")).copies == 1 else 2


@pytest.mark.usefixtures("quick")
async def test_what_is_declared_comes_back_after_a_loss_of_data_and_not_after_its_removal(
    private_broker: Callable[..., PrivateBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(companion_module, "_LOOK_AGAIN", 0.05)
    server = private_broker()
    observer, _ = collector("observer", "agent.*.status", "channel.design.*")
    async with Bus(server.url, agent="sender") as bus, bus.serving(observer, consenting("planner", "*")):
        assert await bus.unbind("observer", "channel.design.*")
        await stays(lambda: _patterns(bus, "agent.*.status"), 0.2)
        server.flush()
        # The agents themselves come back when they hear that their leases are gone.
        await eventually(lambda: _patterns(bus, "agent.*.status", "channel.design.*"))
        await eventually(lambda: _is_copied(bus))


async def _patterns(bus: Bus, *patterns: str) -> bool:
    return [binding.pattern for binding in await bus.bindings()] == list(patterns)


async def _is_copied(bus: Bus) -> bool:
    return (await bus.publish("agent.planner.status", 1)).copies == 1
