"""F4: how long until a dead worker's message runs again, in heartbeats."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable

from agentbus import Bus
from agentbus.broker.embedded import ServerBinary
from agentbus.receive.lease import BEAT_INTERVAL
from tests.chaos.checker import check
from tests.chaos.figure import Figure, percentile
from tests.chaos.history import Record
from tests.chaos.stage import Stage

_NAME = "holder"
_AT_ONCE = 4
_RESCUERS = 2
_MEDIAN_TARGET = 4.0
_TAIL_TARGET = 5.0


class RecoveryRun:
    """Rounds of killing workers that hold a message each; the default lease."""

    def __init__(self, stage: Stage, seed: str, deaths: int) -> None:
        self._stage = stage
        self._dice = random.Random(f"{seed} recovery")
        self._deaths = deaths
        self._workers: list[int] = []
        self._next = 0

    def run(self) -> list[float]:
        """Return the seconds from each death to the next begin of what it held."""
        while len(self._workers) < _AT_ONCE + _RESCUERS:
            self._start_worker()
        # Whoever has just joined must watch for a lease before it may judge.
        time.sleep(2.0)
        left = self._deaths
        while left > 0:
            self._round(min(left, _AT_ONCE))
            left -= _AT_ONCE
        self._stage.wait_drained(f"agent.{_NAME}")
        self._stage.stop(self._workers)
        return recovery_times(self._stage.records())

    def _start_worker(self) -> None:
        self._workers.append(self._stage.start("agent", name=_NAME, manner="hold", concurrency=1))

    def _round(self, deaths: int) -> None:
        keys = {f"round-{number}" for number in range(self._next, self._next + deaths)}
        self._next += deaths
        publish(self._stage, _NAME, keys)
        self._stage.wait(lambda: len(self._holders(keys)) == deaths, 20, "the workers to hold", every=0.05)
        for pid in self._holders(keys).values():
            # Any moment between two beats.
            time.sleep(self._dice.uniform(0.0, BEAT_INTERVAL))
            self._stage.kill(pid)
            self._workers.remove(pid)
            self._start_worker()
        self._stage.wait(lambda: keys <= _redelivered(self._stage.records()), 30, "recovery", every=0.1)

    def _holders(self, keys: set[str]) -> dict[str, int]:
        self._stage.ended()
        return {
            record.key: record.pid
            for record in self._stage.records()
            if record.event == "begin" and record.key in keys
        }


def publish(stage: Stage, name: str, keys: Iterable[str], **content: object) -> None:
    """Publish one message for each key from this process, and write it down."""
    ordered = sorted(keys)
    lines: list[dict[str, object]] = [{"key": key} for key in ordered]

    async def send() -> None:
        async with Bus(stage.broker.url) as bus:
            bodies = [{"key": key, **content} for key in ordered]
            results = await bus.publish_many(f"agent.{name}.task", bodies)
            problems = [result for result in results if isinstance(result, Exception)]
            if problems:
                raise problems[0]

    stage.history.write_many("attempt", lines)
    asyncio.run(send())
    stage.history.write_many("stored", lines)


def _redelivered(records: list[Record]) -> set[str]:
    return {record.key for record in records if record.event == "begin" and record.redelivered}


def recovery_times(records: list[Record]) -> list[float]:
    """Return, for each message whose owner was killed, the seconds until it began again."""
    killed_at = {record.pid: record.at for record in records if record.event == "killed"}
    times: list[float] = []
    owners: dict[str, int] = {}
    for record in records:
        if record.event == "begin":
            before = owners.get(record.key)
            if before is not None and before in killed_at:
                times.append(record.at - killed_at[before])
            owners[record.key] = record.pid
    return times


def run_recovery(seed: str, deaths: int, binary: ServerBinary | None = None) -> Figure:
    """Kill ``deaths`` workers and measure."""
    begun = time.monotonic()
    with Stage(binary) as stage:
        times = RecoveryRun(stage, seed, deaths).run()
        verdict = check(stage.records(), stage.dead_keys(f"agent.{_NAME}"))
        books = stage.books(f"agent.{_NAME}")
    beats = [seconds / BEAT_INTERVAL for seconds in times]
    median, tail = percentile(beats, 0.5), percentile(beats, 0.99)
    figure = Figure("F4", "Recovery of a dead worker's message")
    figure.rows = {
        "deaths": f"{len(times):,}",
        "heartbeats until it ran again, p50": f"{median:.2f} (target {_MEDIAN_TARGET:.0f})",
        "heartbeats until it ran again, p99": f"{tail:.2f} (target {_TAIL_TARGET:.0f})",
        "heartbeats, shortest and longest": f"{min(beats):.2f}, {max(beats):.2f}",
        "books": str(books),
    }
    figure.problems += verdict.problems
    figure.require(len(times) == deaths, f"{len(times)} recoveries were seen for {deaths} deaths")
    if median > _MEDIAN_TARGET:
        figure.missed.append(f"p50 is {median:.2f} heartbeats")
    if tail > _TAIL_TARGET:
        figure.missed.append(f"p99 is {tail:.2f} heartbeats")
    figure.seconds = time.monotonic() - begun
    return figure
