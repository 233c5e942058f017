"""A whole fleet: publishers, agents, workers with every role, people and PostgreSQL, all of them killed.

At the end nothing moves any more, and the judges look: every message handled or ended by the books, every
tick sent once, every dead letter announced once and gone as somebody was told, the archive equal to what
ended.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from agentbus import Bus, Policy, Schedule
from agentbus.broker.embedded import ServerBinary
from agentbus.broker.schedules import SELF_TIMED
from tests.chaos.checker import check
from tests.chaos.crew import Crew, Database, Writer
from tests.chaos.evidence import Evidence
from tests.chaos.fleet_figures import FleetResult
from tests.chaos.gate import Gate
from tests.chaos.gather import Gathering
from tests.chaos.judges import ENDS, judge_archive, judge_letters, judge_ticks
from tests.chaos.plan import FLEET, faults
from tests.chaos.stage import Stage
from tests.postgres import PrivatePostgres, find_programs

_NORTH, _SOUTH = "agent.north", "agent.south"
_INBOXES = (_NORTH, _SOUTH)
#: Of one inbox all records stay, to be compared one by one; of the other retention takes what is archived.
_HISTORY = Policy(history_messages=50)
_WRITERS = {
    "plain": Writer(_NORTH),
    "hasty": Writer(_NORTH, deadline=0.4),
    "keyed": Writer(_SOUTH, idempotent=True),
    "later": Writer(_SOUTH, delay=0.5),
}
#: Name to topic and options: each ticks every second.
_SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "every": (f"{_NORTH}.task", {"misfire": "all:1000"}),
    "fleeting": (f"{_NORTH}.task", {"misfire": "all:1000", "ttl": "1s"}),
    "steady": (f"{_SOUTH}.task", {"misfire": "all:1000", "priority": "high"}),
    "skipping": (f"{_SOUTH}.task", {"misfire": "skip", "grace": "1s"}),
    "bell": ("channel.bells.rung", {"misfire": "all:1000"}),
    "chime": ("system.chimes.rung", {"misfire": "all:1000"}),
}
#: How much longer than before a fault the run waits after it: a worker takes about a second to start.
_PACE = 3.0


class FleetRun:
    """One run; `run` does it."""

    def __init__(self, stage: Stage, database: Database, seed: str, messages: int, kills: int) -> None:
        self._stage = stage
        self._database = database
        self._crew = Crew(stage, database, _WRITERS, messages // len(_WRITERS), seed)
        self._faults = list(faults(seed, kills, FLEET))
        self._books_closed = 0

    def run(self) -> FleetResult:
        """Publish, recur, bury, kill, come to rest, judge."""
        begun = time.monotonic()
        gate = Gate(self._stage.folder / "gate")
        asyncio.run(self._declare())
        self._crew.start()
        for number, fault in enumerate(self._faults, 1):
            gate.open(number / (len(self._faults) + 1))
            # In the middle of what was just released; then time for whoever is new to begin.
            time.sleep(fault.after)
            self._crew.carry_out(fault)
            self._look()
            time.sleep(fault.after * _PACE)
        gate.open(1.0)
        self._crew.heal()
        schedules = self._come_to_rest()
        with self._stage.client() as client:
            evidence = self._gathering(client).evidence(schedules)
        return self._judge(evidence, begun)

    async def _declare(self) -> None:
        async with Bus(self._stage.broker.url, agent="planner") as bus:
            await bus.declare(_SOUTH, _HISTORY)
            for name, (topic, options) in _SCHEDULES.items():
                body = {
                    "key": f"{name}-{{{{tick_number}}}}", "tick": "{{tick_number}}", "time": "{{tick_time}}",
                    "schedule": "{{schedule_id}}",
                }  # fmt: skip
                await bus.schedules.add(topic, body, "interval:1", name=name, **options)

    def _look(self) -> None:
        self._crew.replace_workers()
        for address in _INBOXES:
            self._stage.books(address)
            self._books_closed += 1

    # --- coming to rest ---

    def _come_to_rest(self) -> tuple[Schedule, ...]:
        """Let everything end that has begun; returns the schedules as they stand then."""
        self._wait(lambda: self._crew.published, "the publishers to end")
        self._wait(lambda: asyncio.run(self._ticks_are_sent()), "the ticks to be sent")
        schedules = asyncio.run(self._pause())
        self._crew.stop_people()
        for address in _INBOXES:
            self._stage.wait_drained(address)
        self._look()
        with self._stage.client() as client:
            gathering = self._gathering(client)
            self._wait(lambda: gathering.announced(_INBOXES), "dead letters to be announced")
            self._wait(gathering.archived, "the archive to catch up")
            self._crew.stop_agents()
            self._crew.stop_workers()
            # For the last words of the others: this one archives and adds nothing.
            last = self._crew.start_workers("archive")
            self._wait(gathering.archived, "the archive to be complete")
            self._stage.stop([last])
        self._look()
        return schedules

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self._crew.replace_workers()
            return condition()

        self._stage.wait(look, 60.0, what, every=0.1)

    async def _ticks_are_sent(self) -> bool:
        async with Bus(self._stage.broker.url) as bus:
            late = time.time() - 2.0
            schedules = await bus.schedules.list()
            return all(each.next_send_at and each.next_send_at.timestamp() > late for each in schedules)

    async def _pause(self) -> tuple[Schedule, ...]:
        async with Bus(self._stage.broker.url) as bus:
            # The status of the bus keeps its own time.
            schedules = [each for each in await bus.schedules.list() if each.address != SELF_TIMED]
            for schedule in schedules:
                await bus.schedules.pause(schedule.id)
            return tuple([await bus.schedules.get(schedule.id) for schedule in schedules])

    # --- judging ---

    def _gathering(self, client: redis.Redis) -> Gathering:
        return Gathering(client, self._database.dsn, frozenset((_SOUTH,)))

    def _judge(self, evidence: Evidence, begun: float) -> FleetResult:
        self._promise_ticks(evidence)
        records = self._stage.records()
        dead = [key for address in _INBOXES for key in self._stage.dead_keys(address)]
        queued = [key for address in _INBOXES for key in self._stage.queued_keys(address)]
        ended = evidence.keys(outcome for outcome in ENDS if outcome != "processed")
        return FleetResult(
            check(records, dead, queued, ended),
            judge_ticks(evidence.ticks, evidence.status),
            judge_letters(evidence, records),
            judge_archive(evidence, records),
            self._crew.broken,
            self._books_closed,
            time.monotonic() - begun,
            [f"{address}: {self._stage.books(address)}" for address in _INBOXES],
        )

    def _promise_ticks(self, evidence: Evidence) -> None:
        """Write down what the schedules say they sent to inboxes: it must be handled like anything else."""
        for ticks in evidence.ticks:
            address, _, name = ticks.id.rpartition(":")
            if address in _INBOXES:
                # Of one that skips only the judge of ticks can say which numbers it sent.
                found = sorted({number for number, _ in ticks.found})
                numbers = found if ticks.missed else range(1, ticks.sent + 1)
                lines: list[dict[str, object]] = [{"key": f"{name}-{number}"} for number in numbers]
                self._stage.history.write_many("attempt", lines)
                self._stage.history.write_many("stored", lines)


def run_fleet(
    seed: str, messages: int, kills: int, binary: ServerBinary | None = None, programs: Path | None = None
) -> FleetResult:
    """Send ``messages`` through a fleet while ``kills`` of its processes and servers are broken.

    ``programs`` is the folder of PostgreSQL's. Raises `NoPostgres` when there is none.
    """
    server = PrivatePostgres(programs or find_programs(os.environ))
    try:
        server.start()
        with Stage(binary, "always") as stage:
            return FleetRun(stage, Database(server), seed, messages, kills).run()
    finally:
        server.close()
