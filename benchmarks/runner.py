"""One run: starts the brokers, lets the candidates take turns round by round, collects what they say."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from . import backlog, crowd, fan_out, machine, revival, round_trips
from .broker_state import BrokerState
from .catalogue import AGENTBUS, AGENTBUS_MANY, CATALOGUE, RAW_PUBLISH
from .processes import SideFailed, talking
from .protocol import BOTH
from .results import BOTH_IN, BOTH_OUT, CONSUME, LATENCY, PUBLISH, Results
from .servers import STARTERS, ServerMissing

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .processes import Side

START_LIMIT = 30.0

CALIBRATION = 2000
"""Messages of round zero: it warms the machine up and tells how many make a round of the wanted length."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    candidates: tuple[str, ...]
    rounds: int
    both_rounds: int
    latency_rounds: int
    seconds: float
    """Wanted length of one measurement."""
    latency_samples: int
    backlog: int
    crowd_agents: int
    crowd_messages: int
    """Messages that each agent of the crowd sends."""
    letters: int
    """Dead letters that are retried beside fresh traffic."""
    fan_out_rounds: int
    most_subscribers: int
    idle_seconds: float


class Runner:
    """Owns the brokers of the run and the talk with the side processes."""

    def __init__(self, root: Path, folder: Path, plan: Plan) -> None:
        self.root, self.folder, self.plan = root, folder, plan
        self.peers_python = root / ".venv-bench" / "bin" / "python"
        self.results = Results()
        self.addresses: dict[str, str] = {}
        self.state: BrokerState
        self._started = perf_counter()
        self._counts: dict[tuple[str, str], int] = {}
        self._strikes: dict[str, int] = {}
        self._next_queue = 0

    def say(self, text: str) -> None:
        """Progress for whoever waits."""
        print(f"[{perf_counter() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

    # --- brokers ---

    async def start_servers(self, stack: AsyncExitStack) -> None:
        """Start what the plan needs; a missing broker is a remark in the report, a missing Redis is fatal."""
        wanted = {"redis", *(CATALOGUE[name].server for name in self.plan.candidates)}
        for kind in sorted(wanted):
            folder = self.folder / kind
            folder.mkdir()
            self.say(f"starting {kind}")
            try:
                self.addresses[kind] = await stack.enter_async_context(STARTERS[kind](folder))
            except ServerMissing as missing:
                if kind == "redis":
                    raise
                self._fail_server(kind, str(missing))
        self.state = BrokerState(self.addresses["redis"])
        stack.push_async_callback(self.state.close)
        kind, version = await self.state.name_and_version()
        self.results.versions[kind] = version

    def _fail_server(self, kind: str, reason: str) -> None:
        for name in self.plan.candidates:
            if CATALOGUE[name].server == kind:
                self.fail(name, reason)

    # --- sides ---

    def side(self, name: str) -> AbstractAsyncContextManager[Side]:
        """A fresh process of this candidate."""
        entry = CATALOGUE[name]
        python = sys.executable if entry.at_home else str(self.peers_python)
        words = ("-W", "ignore", "-m", "benchmarks.side", name, self.addresses[entry.server])
        return talking((python, *words), self.root, self.folder / f"{name}.log", START_LIMIT)

    def queue(self) -> str:
        """A queue name that nobody has used."""
        self._next_queue += 1
        return f"q{self._next_queue}"

    def fail(self, name: str, reason: object) -> None:
        """Leave this candidate out from now on, and say why."""
        self.results.failures[name] = str(reason)
        self.say(f"{name}: left out: {reason}")

    def alive(self, name: str) -> bool:
        """Wanted, and not failed so far."""
        return name in self.plan.candidates and name not in self.results.failures

    # --- the run ---

    async def run(self) -> Results:
        """Everything in order; the scenarios of their own come after the rounds."""
        if not self.peers_python.exists():
            for name in self.plan.candidates:
                if not CATALOGUE[name].at_home:
                    self.fail(name, "the peers' environment is not there; `make bench` makes it")
        self.results.machine = {**machine.describe(), "load before the run": machine.load()}
        for number in range(self.plan.rounds + 1):
            for name in self.plan.candidates:
                if self.alive(name):
                    await self._turn(name, number)
        await fan_out.measure(self)
        await round_trips.measure(self)
        await self._scenarios()
        self.results.machine["load at its end"] = machine.load()
        self.results.seconds = perf_counter() - self._started
        return self.results

    async def _scenarios(self) -> None:
        """What is measured of agentbus alone."""
        if not self.alive(AGENTBUS):
            return
        if self.plan.backlog and self.alive(AGENTBUS_MANY) and self.alive(RAW_PUBLISH):
            try:
                self.results.backlog = await backlog.measure(self)
            except SideFailed as error:
                self.fail("backlog", error)
        if self.plan.crowd_agents:
            try:
                self.results.crowd = await crowd.measure(self)
            except SideFailed as error:
                self.fail("crowd", error)
        if self.plan.letters:
            try:
                self.results.revival = await revival.measure(self)
            except SideFailed as error:
                self.fail("revival", error)

    async def _turn(self, name: str, number: int) -> None:
        """All measurements of one candidate in one round."""
        measures = CATALOGUE[name].measures
        try:
            if {PUBLISH, CONSUME} & measures:
                await self._one_sided(name, number, measures)
            if BOTH in measures and 0 < number <= self.plan.both_rounds:
                await self._both(name, number)
            if LATENCY in measures and 0 < number <= self.plan.latency_rounds:
                await self._latency(name, number)
        except SideFailed as error:
            self.strike(name, error)
        await self.state.clean()

    def strike(self, name: str, error: SideFailed) -> None:
        """One bad turn is noise and costs that turn; a second one leaves the candidate out."""
        self._strikes[name] = self._strikes.get(name, 0) + 1
        if self._strikes[name] > 1 or "not installed" in str(error):
            self.fail(name, error)
        else:
            self.say(f"{name}: this turn does not count: {error}")

    async def _one_sided(self, name: str, number: int, measures: frozenset[str]) -> None:
        queue, found = self.queue(), {}
        async with self.side(name) as producer:
            self.results.versions.update(producer.versions)
            if PUBLISH in measures:
                answer = await producer.ask("publish", queue, self.count(name, PUBLISH))
                found[PUBLISH] = answer["rate"]
                for used in (queue, f"{queue}-warm"):
                    await producer.ask("discard", used)
            if CONSUME in measures:
                await self.state.clean()
                queue = self.queue()
                await producer.ask("fill", queue, self.count(name, CONSUME))
        if CONSUME in measures:
            found[CONSUME] = await self._consume(name, queue)
        self._keep(name, number, found)

    async def _consume(self, name: str, queue: str) -> float:
        async with self.side(name) as consumer:
            answer = await consumer.ask("consume", queue, self.count(name, CONSUME))
            await consumer.ask("discard", queue)
            return float(answer["rate"])

    async def _both(self, name: str, number: int) -> None:
        """Producer and consumer at once, in two processes."""
        queue = self.queue()
        count = min(self.count(name, PUBLISH), self.count(name, CONSUME))
        await self.state.clean()
        async with self.side(name) as consumer, self.side(name) as producer:
            await producer.ask("prepare", queue)
            consuming = asyncio.create_task(consumer.ask("consume", queue, count))
            try:
                out = await producer.ask("publish", queue, count)
                into = await consuming
            finally:
                consuming.cancel()
            for used in (queue, f"{queue}-warm"):
                await producer.ask("discard", used)
        self._keep(name, number, {BOTH_OUT: out["rate"], BOTH_IN: into["rate"]})

    async def _latency(self, name: str, number: int) -> None:
        queue = self.queue()
        await self.state.clean()
        async with self.side(name) as alone:
            answer = await alone.ask("latency", queue, self.plan.latency_samples)
            await alone.ask("discard", queue)
        self.results.add_latency(name, number, answer["samples"])
        median = self.results.values[name, LATENCY][number]
        self.say(f"round {number}  {name:16} latency {median * 1000:.3f} ms")

    def count(self, name: str, measure: str) -> int:
        """How many messages make a measurement of the wanted length."""
        return self._counts.get((name, measure), CALIBRATION)

    def _keep(self, name: str, number: int, found: dict[str, float]) -> None:
        """Round zero only calibrates; later rounds count."""
        for measure, rate in found.items():
            if number == 0:
                self._counts[name, measure] = max(500, int(rate * self.plan.seconds))
            else:
                self.results.values[name, measure][number] = rate
        shown = "  ".join(f"{measure} {rate:,.0f}/s" for measure, rate in found.items())
        self.say(f"round {number}  {name:16} {shown}")
