"""Work that nobody saw: handed out by the broker, never heard of by its owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import Agent, AgentSettings, Bus, BusSettings, Retry
from agentbus.broker.scripts import load
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.waiting import eventually
from tests.proxy import Proxy

Unique = Callable[[str], str]


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    """A bus with a clean line to the server."""
    async with Bus(broker.url, agent="tester") as opened:
        # A server that does not know a script answers NOSCRIPT, and the reply that is lost would be that.
        for script in ("fetch", "settle", "postpone", "bury", "release", "join"):
            await opened.rooms.broker.execute("SCRIPT", "LOAD", load(script).text)
        yield opened


@pytest.fixture(autouse=True)
def quick_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every half second instead of every three: what is found is found by the same look."""
    monkeypatch.setattr("agentbus.receive.audit.AUDIT_INTERVAL", 0.5)


@pytest.fixture
async def proxy(broker: BrokerForTests) -> AsyncIterator[Proxy]:
    async with Proxy(broker.url) as opened:
        yield opened


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


def calls(script: str) -> Callable[[bytes], bool]:
    """Match requests that run a script."""
    digest = load(script).digest.encode()
    return lambda request: digest in request


def once(match: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    """Match only the first such request."""
    left = [1]

    def matched(request: bytes) -> bool:
        if left and match(request):
            left.clear()
            return True
        return False

    return matched


def listing(name: str, seen: list[Any], **options: Any) -> Agent:
    agent = Agent(name, retry=Retry(max_retries=0), **options)

    @agent.on("task")
    async def handle(body: Any) -> None:
        seen.append(body)

    return agent


async def processed(look: Look, count: int, within: float = 15.0) -> None:
    async def reached() -> bool:
        return await look.count("processed") == count and await look.unsettled() == 0

    await eventually(reached, within)
    await look.check_balance()


async def test_a_fetch_whose_reply_was_lost_and_after_which_nothing_else_happens_is_taken_in(
    bus: Bus, proxy: Proxy, name: str
) -> None:
    """Nobody publishes, nobody dies; the entries are pending to a living consumer that never saw them."""
    seen: list[Any] = []
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.task", range(5))
    proxy.lose_reply = once(calls("fetch"))
    async with Bus(proxy.url, agent="worker") as worker, worker.serving(listing(name, seen)):
        await processed(look, 5)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert proxy.cuts == 1
    assert await look.count("reclaimed") == 0


async def test_a_read_parked_on_a_black_holed_link_takes_nothing_away(
    bus: Bus, proxy: Proxy, name: str
) -> None:
    seen: list[Any] = []
    look = Look(bus, name)
    async with (
        Bus(proxy.url, agent="worker", settings=BusSettings(command_timeout=1.0)) as worker,
        worker.serving(listing(name, seen, settings=AgentSettings(lease=60.0))),
    ):

        async def parked() -> bool:
            clients = (await bus.rooms.broker.execute("CLIENT", "LIST")).decode()
            return any("flags=b" in line and "cmd=xreadgroup" in line for line in clients.splitlines())

        await eventually(parked)
        proxy.black_hole = True
        await bus.publish(f"agent.{name}.task", "to a link that is dead")

        async def handed_out() -> bool:
            return await look.pending() == 1

        await eventually(handed_out)
        assert seen == []
        # The link stays dead, others work: the old connections are never heard of again.
        proxy.reset()
        proxy.black_hole = False
        await processed(look, 1)
    assert seen == ["to a link that is dead"]
    assert await look.count("reclaimed") == 0


async def test_a_settlement_whose_reply_was_lost_is_repeated_and_its_message_not_run_again(
    bus: Bus, proxy: Proxy, name: str
) -> None:
    seen: list[Any] = []
    look = Look(bus, name)
    async with Bus(proxy.url, agent="worker") as worker, worker.serving(listing(name, seen)):
        for number in range(8):
            proxy.lose_reply = once(calls("settle"))
            await bus.publish(f"agent.{name}.task", number)
            await processed(look, number + 1)
    assert seen == list(range(8))
    assert proxy.cuts >= 8


@pytest.mark.parametrize("script", ["postpone", "bury", "release"])
async def test_every_settlement_survives_the_loss_of_its_reply(
    bus: Bus, proxy: Proxy, name: str, script: str
) -> None:
    agent, look, runs = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01)), Look(bus, name), []

    @agent.on("task")
    async def handle(delivery: Any) -> None:
        runs.append(1)
        if script == "release" and len(runs) == 1:
            raise asyncio.CancelledError
        raise ValueError

    proxy.lose_reply = once(calls(script))
    async with Bus(proxy.url, agent="worker") as worker, worker.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        assert await eventually(look.dead_reasons, 15) == ["exhausted"]

        async def quiet() -> bool:
            return await look.unsettled() == 0

        await eventually(quiet)
        assert len(runs) == 2
        assert await look.count("retried") == 1
    await look.check_balance()


async def test_a_join_whose_reply_was_lost_is_tried_again_under_another_name(
    bus: Bus, proxy: Proxy, name: str
) -> None:
    seen: list[Any] = []
    proxy.lose_reply = once(calls("join"))
    async with Bus(proxy.url, agent="worker") as worker, worker.serving(listing(name, seen)):
        await bus.publish(f"agent.{name}.task", 1)
        await processed(Look(bus, name), 1)
    assert proxy.cuts == 1


async def test_the_links_being_cut_again_and_again_loses_nothing_and_doubles_nothing(
    bus: Bus, proxy: Proxy, name: str
) -> None:
    seen: list[Any] = []
    look = Look(bus, name)
    async with Bus(proxy.url, agent="worker") as worker, worker.serving(listing(name, seen)):
        for step in range(10):
            await bus.publish_many(f"agent.{name}.task", range(step * 100, step * 100 + 100))
            await eventually(lambda step=step: len(seen) > step * 100)
            proxy.reset()
        await processed(look, 1000, within=30)
    assert sorted(seen) == list(range(1000))


async def test_entries_that_become_ours_again_after_a_failover_are_run_again_not_forgotten(
    bus: Bus, name: str
) -> None:
    """An older replica takes over: the group has gone back, and settled entries are waiting again."""
    seen: list[Any] = []
    look = Look(bus, name)
    stream = look.keys.sources[3]
    async with bus.serving(listing(name, seen)):
        await bus.publish_many(f"agent.{name}.task", range(5))
        await processed(look, 5)
        await bus.rooms.broker.execute("XGROUP", "SETID", stream, "inbox", "0")
        await eventually(lambda: len(seen) == 10)
        await eventually(lambda: _nothing_pending(look))
    assert sorted(seen) == sorted([*range(5), *range(5)])


async def test_entries_pending_to_us_again_after_a_failover_are_found_by_the_audit(
    bus: Bus, name: str
) -> None:
    """An older replica takes over: what we settled is pending to us, and no read will ever return it."""
    seen: list[Any] = []
    look = Look(bus, name)
    stream = look.keys.sources[3]
    async with bus.serving(listing(name, seen)):
        await bus.publish_many(f"agent.{name}.task", range(3))
        await processed(look, 3)
        (consumer,) = await look.alive()
        for entry_id, _ in await bus.rooms.broker.execute("XRANGE", stream, "-", "+"):
            await bus.rooms.broker.execute(
                "XCLAIM", stream, "inbox", consumer, 0, entry_id, "FORCE", "JUSTID"
            )
        assert await look.pending() == 3
        await eventually(lambda: len(seen) == 6, 15)
        await eventually(lambda: _nothing_pending(look))


async def test_an_entry_handed_out_again_while_it_runs_is_not_run_beside_itself(bus: Bus, name: str) -> None:
    agent, look, runs, go_on = Agent(name), Look(bus, name), [], asyncio.Event()

    @agent.on("task")
    async def handle(body: int) -> None:
        runs.append(body)
        await go_on.wait()

    stream = look.keys.sources[3]
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1)
        await eventually(lambda: runs == [1])
        await bus.rooms.broker.execute("XGROUP", "SETID", stream, "inbox", "0")
        await bus.publish(f"agent.{name}.task", 2)
        await eventually(lambda: 2 in runs)
        go_on.set()
        await eventually(lambda: _nothing_pending(look))
    assert runs == [1, 2]


async def test_an_audit_never_touches_the_delivery_counter_of_what_runs(bus: Bus, name: str) -> None:
    agent, look, go_on = Agent(name), Look(bus, name), asyncio.Event()

    @agent.on("task")
    async def handle() -> None:
        await go_on.wait()

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)

        async def held() -> bool:
            return await look.pending() == 1

        await eventually(held)
        (consumer,) = await look.alive()
        assert await look.inbox.held_ids(consumer)
        (item,) = await bus.rooms.broker.execute("XPENDING", look.keys.sources[3], "inbox", "-", "+", 10)
        assert item[3] == 1
        go_on.set()
        await processed(look, 1)


async def test_an_entry_deleted_by_somebody_while_it_is_pending_is_counted_as_vanished(
    bus: Bus, name: str, proxy: Proxy
) -> None:
    """A trim with MAXLEN from outside takes what a lost reply had already hidden from its owner."""
    seen: list[Any] = []
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.task", "gone")
    proxy.lose_reply = once(calls("fetch"))
    async with Bus(proxy.url, agent="worker") as worker, worker.serving(listing(name, seen)):

        async def handed_out() -> bool:
            return await look.pending() == 1

        await eventually(handed_out)
        await bus.rooms.broker.execute("XTRIM", look.keys.sources[3], "MAXLEN", 0)

        async def vanished() -> bool:
            return await look.count("vanished") == 1

        await eventually(vanished, 15)
        await bus.publish(f"agent.{name}.task", "next")
        await processed(look, 1)
    assert seen == ["next"]


async def _nothing_pending(look: Look) -> bool:
    return await look.pending() == 0 and await look.waiting() == 0


async def test_work_taken_from_its_owner_by_hand_is_put_back_and_settled(bus: Bus, name: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    agent = Agent(name)

    @agent.on("task")
    async def handle(body: Any) -> None:
        begun.set()
        await go_on.wait()

    look = Look(bus, name)
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1)
        await begun.wait()
        (consumer,) = await look.alive()
        lane = look.keys.sources[3]
        taken = await bus.rooms.broker.execute("XGROUP", "DELCONSUMER", lane, "inbox", consumer)
        assert taken == 1, "the entry was pending, and now belongs to nobody"
        await eventually(lambda: bus.events.counts["restored"] == 1, 20)
        go_on.set()
        await eventually(lambda: look.count("processed"), 10)
    await look.check_balance()
