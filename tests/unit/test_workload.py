"""How much is taken, and what goes back."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any, cast

from agentbus.broker.answers import RawEntry
from agentbus.broker.inbox import Inbox
from agentbus.receive.delivery import Delivery, Source
from agentbus.receive.suspects import SuspectGate
from agentbus.receive.workload import Workload


def delivery(number: int, *, arrived: float = 0.0, crashes: int = 0) -> Delivery:
    state = json.dumps({"crashes": crashes}).encode() if crashes else b""
    source = Source(cast(Inbox, SimpleNamespace(address="agent.worker")), 3)
    return Delivery(source, RawEntry(3, f"{number}-0".encode(), b"{}", state), arrived, cast(Any, None))


def workload(runners: int = 2, prefetch: int = 100, gate: SuspectGate | None = None) -> Workload:
    return Workload(runners, prefetch, 0.020, gate or SuspectGate())


def finish(load: Workload, number: int, seconds: float) -> None:
    load.add([delivery(number)])
    taken = load.take()
    assert taken is not None
    now = time.monotonic()
    load.finished(taken, now - seconds, now)


async def test_unknown_handlers_get_no_prefetch() -> None:
    assert workload(runners=2).wanted == 2


async def test_fast_handlers_earn_a_prefetch_and_a_slow_one_loses_it() -> None:
    load = workload(runners=2, prefetch=100)
    finish(load, 1, 0.001)
    assert load.wanted == 102
    finish(load, 2, 5.0)
    assert load.wanted == 2


async def test_one_handler_that_the_machine_held_up_does_not_make_a_reader_in_order_slow() -> None:
    load = Workload(1, 100, 0.020, SuspectGate(), in_order=True)
    finish(load, 1, 2.0)
    assert load.wanted == 1
    finish(load, 2, 0.001)
    assert load.wanted == 101
    finish(load, 3, 2.0)
    assert load.wanted == 101
    finish(load, 4, 2.0)
    assert load.wanted == 1


async def test_in_order_as_many_wait_as_are_handled_while_the_next_are_on_their_way() -> None:
    load = Workload(1, 100, 0.020, SuspectGate(), in_order=True)
    load.on_their_way = 10.0
    assert load.wanted == 1, "nobody knows yet how fast it is"
    finish(load, 1, 0.1)
    load.on_their_way = 0.001
    assert load.wanted == 1
    load.on_their_way = 3.05
    assert load.wanted == 31
    load.on_their_way = 60.0
    assert load.wanted == 101
    shared = workload(runners=1)
    finish(shared, 1, 0.1)
    shared.on_their_way = 3.0
    assert shared.wanted == 1, "a sibling could take it"


async def test_nothing_is_wanted_while_every_runner_is_busy() -> None:
    load = workload(runners=2, prefetch=0)
    load.add([delivery(1), delivery(2)])
    assert load.wanted == 0
    assert load.take() is not None
    assert load.take() is not None
    assert load.wanted == 0
    assert load.running == 2


async def test_what_came_beyond_the_free_runners_goes_back_newest_first() -> None:
    load = workload(runners=2, prefetch=100)
    load.add([delivery(number) for number in range(5)])
    assert [each.entry_id for each in load.take_excess()] == ["4-0", "3-0", "2-0"]
    assert load.waiting == 2


async def test_what_has_not_begun_in_time_goes_back() -> None:
    load = workload(runners=2)
    load.add([delivery(1, arrived=1.0), delivery(2, arrived=2.0), delivery(3, arrived=1.0, crashes=1)])
    assert [each.entry_id for each in load.take_unstarted(1.5)] == ["1-0", "3-0"]
    assert load.waiting == 1


async def test_one_suspect_at_a_time_in_all_workloads_of_a_process() -> None:
    gate = SuspectGate()
    first, second = workload(gate=gate), workload(gate=gate)
    first.add([delivery(1, crashes=1), delivery(2, crashes=1)])
    second.add([delivery(3, crashes=2), delivery(4)])
    running = first.take()
    assert running is not None
    assert first.take() is None
    innocent = second.take()
    assert innocent is not None
    assert innocent.entry_id == "4-0"
    assert second.take() is None
    first.finished(running, time.monotonic(), time.monotonic())
    suspect = second.take()
    assert suspect is not None
    assert suspect.entry_id == "3-0"


async def test_suspects_behind_a_long_one_are_put_off() -> None:
    load = workload()
    load.add([delivery(1, crashes=1), delivery(2, crashes=1)])
    assert load.take_blocked(0.0) == []
    assert load.take() is not None
    assert load.take_blocked(60.0) == []
    assert [each.entry_id for each in load.take_blocked(-1.0)] == ["2-0"]
    assert load.waiting == 0


async def test_a_runner_that_waits_is_woken_by_work_and_one_that_is_cancelled_passes_it_on() -> None:
    load = workload()
    waiters = [asyncio.create_task(load.wait_work()) for _ in range(2)]
    await asyncio.sleep(0)
    load.add([delivery(1)])
    waiters[0].cancel()
    async with asyncio.timeout(5):
        await waiters[1]
    assert load.take() is not None


async def test_waiting_for_room_ends_when_interrupted_though_there_is_none() -> None:
    load = workload(runners=1, prefetch=0)
    load.add([delivery(1)])
    waiting = asyncio.create_task(load.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    load.interrupt()
    async with asyncio.timeout(5):
        await waiting


async def test_with_no_runners_only_what_callers_wait_for_is_wanted() -> None:
    load = Workload(0, 0, 0.02, SuspectGate())
    assert load.wanted == 0
    waiters = [asyncio.create_task(load.wait_work()) for _ in range(3)]
    await asyncio.sleep(0)
    assert load.wanted == 3
    waiters[0].cancel()
    await asyncio.wait([waiters[0]])
    assert load.wanted == 2
    for waiter in waiters[1:]:
        waiter.cancel()
    await asyncio.wait(waiters)


async def test_what_came_after_a_caller_had_looked_is_not_waited_for() -> None:
    load = workload(runners=0)
    assert load.take() is None
    load.add([delivery(1)])
    async with asyncio.timeout(1):
        await load.wait_work()
    assert load.take() is not None


async def test_after_the_close_nothing_is_begun_and_runners_wait() -> None:
    load = workload()
    load.add([delivery(1), delivery(2, crashes=1)])
    load.close()
    assert load.take() is None
    waiting = asyncio.create_task(load.wait_work())
    done, _ = await asyncio.wait((waiting,), timeout=0.01)
    assert not done
    assert len(load.take_unstarted(float("inf"))) == 2
    waiting.cancel()
