"""F9: messages that kill their process, among healthy ones: three runs each, then a dead letter."""

from __future__ import annotations

import random
import time
from collections import Counter

from agentbus.broker.embedded import ServerBinary
from tests.chaos.checker import check
from tests.chaos.figure import Figure, zero_of
from tests.chaos.history import Record
from tests.chaos.recovery import publish
from tests.chaos.stage import RunFailed, Stage

_NAME = "taster"
_ADDRESS = f"agent.{_NAME}"
_WORKERS = 6
#: As short as it may be: every death costs one lease.
_LEASE = 2.0
_MOST_RUNS = 3
_CHUNKS = 20
_KINDS = ("poison", "healthy")


class PoisonRun:
    """Publishes, replaces what dies, waits for the drain."""

    def __init__(self, stage: Stage, seed: str, poison: int, healthy: int) -> None:
        self._stage = stage
        self._dice = random.Random(f"{seed} poison")
        self._poison = [f"poison-{number}" for number in range(poison)]
        self._healthy = [f"healthy-{number}" for number in range(healthy)]
        self._workers: set[int] = set()
        self.deaths = 0

    def run(self) -> None:
        """Do it."""
        stage = self._stage
        for _ in range(_WORKERS):
            self._start_worker()
        self._publish_mixed()
        limit = 60 + 3 * len(self._poison) * (_LEASE + 3.0) / _WORKERS + len(self._healthy) / 500
        stage.wait(self._drained, limit, f"the drain; {len(self._poison)} poisons", every=0.1)
        stage.stop(sorted(self._workers))

    def _start_worker(self) -> None:
        pid = self._stage.start(
            "agent", name=_NAME, manner="poison", concurrency=8, lease=_LEASE, seconds=0.005
        )
        self._stage.expect_end(pid)
        self._workers.add(pid)

    def _publish_mixed(self) -> None:
        """Poison comes anywhere among the healthy."""
        places = {key: self._dice.randrange(_CHUNKS) for key in self._poison}
        for number in range(_CHUNKS):
            publish(self._stage, _NAME, self._healthy[number::_CHUNKS])
            deadly = [key for key, place in places.items() if place == number]
            publish(self._stage, _NAME, deadly, poison=True)
            self._tend()

    def _tend(self) -> None:
        ended = self._stage.ended()
        for pid in tuple(self._workers & ended.keys()):
            if ended[pid] != -9:
                raise RunFailed(f"agent {pid} ended with {ended[pid]}")
            self._workers.discard(pid)
            self.deaths += 1
            self._start_worker()

    def _drained(self) -> bool:
        self._tend()
        return self._stage.books(_ADDRESS).unsettled == 0


def run_poison(seed: str, poison: int, healthy: int, binary: ServerBinary | None = None) -> Figure:
    """Send ``poison`` killing messages among ``healthy`` ones."""
    begun = time.monotonic()
    with Stage(binary) as stage:
        run = PoisonRun(stage, seed, poison, healthy)
        run.run()
        records = stage.records()
        dead = stage.dead_keys(_ADDRESS)
        books = stage.books(_ADDRESS)
    figure = _judge(records, dead, poison, healthy, run.deaths)
    figure.rows["books"] = str(books)
    figure.seconds = time.monotonic() - begun
    return figure


def _judge(records: list[Record], dead: list[str], poison: int, healthy: int, deaths: int) -> Figure:
    verdict = check(records, dead)
    runs = Counter(record.key for record in records if record.event == "begin")
    most = {kind: max((n for key, n in runs.items() if key.startswith(kind)), default=0) for kind in _KINDS}
    buried = Counter(key.partition("-")[0] for key in dead)
    handled = verdict.handled
    figure = Figure("F9", "Messages that kill their process")
    figure.rows = {
        "killing messages, among healthy ones": f"{poison:,}, {healthy:,}",
        "processes that died of them": f"{deaths:,}",
        "runs of one killing message, at most": f"{most['poison']} (target {_MOST_RUNS})",
        "killing messages in the dead letters": f"{buried['poison']:,}",
        "healthy ones in the dead letters": zero_of(buried["healthy"], deaths, "death"),
        "healthy ones handled": f"{handled:,}",
        "most runs of a healthy one": str(most["healthy"]),
    }
    figure.problems += verdict.problems
    figure.require(most["poison"] <= _MOST_RUNS, f"a killing message ran {most['poison']} times")
    figure.require(buried["poison"] == poison, f"{poison} killing messages, but {buried['poison']} died")
    figure.require(buried["healthy"] == 0, f"{buried['healthy']} healthy messages became dead letters")
    figure.require(handled == healthy, f"{healthy - handled} healthy messages were not handled")
    return figure
