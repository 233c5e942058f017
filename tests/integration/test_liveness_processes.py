"""Agents in processes of their own that are killed, frozen, blocked and stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentbus import Bus
from agentbus.testing import BrokerForTests
from tests.agents.look import Look
from tests.agents.process import Fleet, fleet
from tests.agents.waiting import eventually

Unique = Callable[[str], str]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60)]

#: Short enough for tests, long enough for a beat a second.
LEASE = {"lease": 2.0}
#: Heartbeats within which the work of a dead process runs elsewhere, with this lease.
RECOVERY_SECONDS = 5.0


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("agent")


@pytest.fixture
def agents(broker: BrokerForTests, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(broker.url, tmp_path) as started:
        yield started


async def processed(look: Look, count: int, within: float = 15.0) -> None:
    async def reached() -> bool:
        return await look.count("processed") == count and await look.unsettled() == 0

    await eventually(reached, within)
    await look.check_balance()


async def test_a_process_killed_in_the_middle_of_a_handler_loses_its_work_to_a_sibling(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings=LEASE)
    await first.joined(look)
    await bus.publish(f"agent.{name}.sleep", {"n": 1, "seconds": 60, "after_crash": 0.1})
    await eventually(lambda: first.lines("begin"))
    second = agents.start(name, settings=LEASE)
    await second.joined(look)
    killed_at = time.monotonic()
    first.kill()
    (begin,) = await eventually(lambda: second.lines("begin"))
    assert begin["at"] - killed_at < RECOVERY_SECONDS
    assert (begin["attempt"], begin["crashes"]) == (1, 1)
    await processed(look, 1)
    assert len(agents.lines("begin", n=1)) == 2


async def test_a_process_killed_before_its_handlers_began_costs_no_second_run(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, concurrency=1, settings={**LEASE, "start_within": 60.0})
    consumer = await first.joined(look)
    await bus.publish_many(f"agent.{name}.note", [{"n": -1}] * 100)
    await processed(look, 100)
    # Fast handlers earned it a prefetch: these are held behind one that is slow.
    await bus.publish(f"agent.{name}.sleep", {"n": 100, "seconds": 60, "after_crash": 0.1})
    await eventually(lambda: first.lines("begin", n=100))
    await bus.publish_many(f"agent.{name}.note", [{"n": n} for n in range(200, 210)])

    async def holds_all() -> bool:
        return await look.pending(consumer) == 11

    await eventually(holds_all)
    first.kill()
    second = agents.start(name, settings=LEASE)

    def all_ran() -> bool:
        return {line["n"] for line in second.lines("end")} >= set(range(200, 210))

    await eventually(all_ran, 15)
    assert all(len(agents.lines("begin", n=n)) == 1 for n in range(200, 210))


async def test_a_process_killed_after_the_effect_and_before_the_settlement_runs_it_once_more(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    await bus.publish(f"agent.{name}.effect", {"n": 1})
    first = agents.start(name, settings=LEASE)
    await first.wait()
    agents.start(name, settings=LEASE)
    await processed(look, 1)
    assert [line["crashes"] for line in agents.lines("end", n=1)] == [0, 1]


async def test_a_frozen_process_wakes_to_a_lost_lease_and_not_one_more_line_runs(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings=LEASE)
    await first.joined(look)
    await bus.publish(f"agent.{name}.steps", {"n": 1})
    await eventually(lambda: len(first.lines("step")) > 5)
    second = agents.start(name, settings=LEASE)
    await second.joined(look)
    first.freeze()
    await eventually(lambda: second.lines("begin"), 15)
    steps_before = len(first.lines("step"))
    first.thaw()
    # It says that it lost its lease, joins under a new name, and the old handler never went on.
    await eventually(lambda: first.lines("event", action="fenced"))
    await eventually(lambda: len(second.lines("step")) > 50)
    assert len(first.lines("step")) == steps_before
    assert await look.count("processed") == 0
    assert await look.count("reclaimed") == 1


async def test_what_a_frozen_process_settles_after_its_lease_is_refused(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings=LEASE)
    await first.joined(look)
    await bus.publish(f"agent.{name}.thread", {"n": 1, "seconds": 4.0})
    await eventually(lambda: first.lines("begin"))
    second = agents.start(name, settings=LEASE)
    await second.joined(look)
    first.freeze()
    await eventually(lambda: second.lines("begin"), 15)
    first.thaw()
    # The thread cannot be stopped; it learns that its result no longer counts, and only one result does.
    await eventually(lambda: first.lines("end"))
    assert first.lines("cancelled")
    await processed(look, 1)
    assert await look.count("reclaimed") == 1


async def test_a_handler_many_leases_long_is_never_given_to_another(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first, second = (agents.start(name, settings=LEASE) for _ in range(2))
    await first.joined(look)
    await second.joined(look)
    await bus.publish(f"agent.{name}.sleep", {"n": 1, "seconds": 7.0})
    await processed(look, 1, within=15)
    assert len(agents.lines("begin", n=1)) == 1
    assert await look.count("reclaimed") == 0


@pytest.mark.parametrize("how", ["block", "spin"])
async def test_a_handler_that_blocks_the_event_loop_keeps_its_work(
    bus: Bus, agents: Fleet, name: str, how: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings=LEASE)
    await first.joined(look)
    await bus.publish(f"agent.{name}.{how}", {"n": 1, "seconds": 6.0})
    await eventually(lambda: first.lines("begin"))
    second = agents.start(name, settings=LEASE)
    await second.joined(look)
    await eventually(lambda: first.lines("end"), 15)
    await processed(look, 1)
    assert await look.count("reclaimed") == 0
    assert not agents.lines("event", action="fenced")


async def test_a_process_whose_loop_is_dead_stops_beating_though_its_thread_lives(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings={**LEASE, "stall_limit": 1.0})
    await first.joined(look)
    await bus.publish(f"agent.{name}.block", {"n": 1, "seconds": 8.0})
    await eventually(lambda: first.lines("begin"))
    second = agents.start(name, settings={**LEASE, "stall_limit": 60.0})
    await eventually(lambda: second.lines("begin"), 15)
    assert first.ended is None
    assert not first.lines("end")


async def test_a_poison_message_runs_three_times_and_its_neighbours_twice_at_most(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    bodies = [{"n": n, "seconds": 0.5} for n in range(8)]
    await bus.publish_many(f"agent.{name}.sleep", bodies[:4])
    await bus.publish(f"agent.{name}.poison", {"n": 99})
    await bus.publish_many(f"agent.{name}.sleep", bodies[4:])
    deadline = time.monotonic() + 45
    while time.monotonic() < deadline:
        if not any(process.ended is None for process in agents.processes):
            agents.start(name, concurrency=9, settings=LEASE)
        if await look.dead() and await look.count("processed") == 8:
            break
        await asyncio.sleep(0.05)
    assert await look.dead_reasons() == ["crashed"]
    (letter,) = await look.dead()
    assert json.loads(letter["message"])["message_type"] == "poison"
    assert len(agents.lines("begin", n=99)) == 3
    for n in range(8):
        assert 1 <= len(agents.lines("begin", n=n)) <= 2, n
    await processed(look, 8)


async def test_two_processes_of_one_name_hold_their_work_apart(bus: Bus, agents: Fleet, name: str) -> None:
    look = Look(bus, name)
    first, second = (agents.start(name, concurrency=1, settings=LEASE) for _ in range(2))
    assert await first.joined(look) != await second.joined(look)
    await bus.publish_many(f"agent.{name}.sleep", [{"n": n, "seconds": 0.5} for n in range(2)])
    await eventually(lambda: first.lines("begin") and second.lines("begin"))
    await processed(look, 2)
    assert len(agents.lines("begin")) == 2


async def test_a_process_killed_while_it_drains_is_charged_to_nobody(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings=LEASE)
    consumer = await first.joined(look)
    await bus.publish(f"agent.{name}.sleep", {"n": 1, "seconds": 30})
    await eventually(lambda: first.lines("begin"))
    first.send(signal.SIGTERM)

    async def announced() -> bool:
        return "draining" in (await look.alive())[consumer]

    await eventually(announced)
    first.kill()
    second = agents.start(name, settings=LEASE)
    (begin,) = await eventually(lambda: second.lines("begin"), 15)
    assert begin["crashes"] == 0


async def test_sigterm_hands_back_a_hundred_unstarted_messages_at_once_and_unspent(
    bus: Bus, agents: Fleet, name: str
) -> None:
    look = Look(bus, name)
    first = agents.start(name, concurrency=1, settings={**LEASE, "start_within": 60.0})
    consumer = await first.joined(look)
    await bus.publish_many(f"agent.{name}.note", [{"n": -1} for n in range(100)])
    await processed(look, 100)
    await bus.publish(f"agent.{name}.sleep", {"n": 0, "seconds": 3.0})
    await eventually(lambda: first.lines("begin", n=0))
    await bus.publish_many(f"agent.{name}.note", [{"n": n} for n in range(1, 101)])

    async def holds_all() -> bool:
        return await look.pending(consumer) >= 100

    await eventually(holds_all)
    stopped_at = time.monotonic()
    first.send(signal.SIGTERM)

    async def handed_back() -> bool:
        return await look.pending(consumer) == 1

    await eventually(handed_back)
    assert time.monotonic() - stopped_at < 1.0
    second = agents.start(name, settings=LEASE)
    assert await first.wait() == 0
    assert first.lines("end", n=0), "what ran was finished"
    assert first.lines("left")
    await processed(look, 201)
    begins = second.lines("begin")
    assert sorted(line["n"] for line in begins) == list(range(1, 101))
    assert {(line["attempt"], line["crashes"]) for line in begins} == {(1, 0)}
    assert all(f".{first.pid}." not in consumer for consumer in await look.alive())
    assert all(f".{first.pid}." not in consumer for consumer in await look.group_consumers())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_no_longer_waits_for_what_runs(
    bus: Bus, agents: Fleet, name: str, number: signal.Signals
) -> None:
    look = Look(bus, name)
    first = agents.start(name, settings=LEASE)
    consumer = await first.joined(look)
    await bus.publish(f"agent.{name}.sleep", {"n": 1, "seconds": 30})
    await eventually(lambda: first.lines("begin"))
    first.send(number)

    async def draining() -> bool:
        return "draining" in (await look.alive()).get(consumer, "")

    await eventually(draining)
    begun = time.monotonic()
    first.send(number)
    assert await first.wait() != 0
    assert time.monotonic() - begun < 5


async def test_processes_killed_in_the_middle_of_retries_leave_every_message_in_one_place(
    bus: Bus, agents: Fleet, name: str
) -> None:
    """A retry is one script: added where it waits and taken from where it was, or neither."""
    look = Look(bus, name)
    await bus.publish_many(f"agent.{name}.fails", [{"n": n} for n in range(60)])
    # The first one is quick; what it held when it died is then run one at a time.
    for begins in (300, 10, 10):
        victim = agents.start(name, settings=LEASE)
        await eventually(lambda: len(victim.lines("begin")) > begins, 15)  # noqa: B023 - awaited in this round
        victim.kill()
        await look.check_balance()
    assert await look.unsettled() + len(await look.dead()) == 60
