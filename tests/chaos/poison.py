"""F9: messages that kill their process, among healthy ones: three runs each, then a dead letter."""

from __future__ import annotations

import random
import time
from collections import Counter

from agentbus.broker.embedded import ServerBinary
from tests.chaos.checker import check
from tests.chaos.figure import Figure, zero_of
from tests.chaos.recovery import publish
from tests.chaos.stage import RunFailed, Stage

_NAME = "taster"
_ADDRESS = f"agent.{_NAME}"
_WORKERS = 6
#: As short as it may be: every death costs one lease.
_LEASE = 2.0
_MOST_RUNS = 3


class PoisonRun:
    """Publishes, replaces what dies, waits for the drain."""

    def __init__(self, stage: Stage, seed: str, poison: int, healthy: int) -> None:
        self._stage = stage
        self._dice = random.Random(f"{seed} poison")
        self._poison = [f"poison-{number}" for number in range(poison)]
        self._healthy = [f"healthy-{number}" for number in range(healthy)]
        self._workers: set[int] = set()
        self._replace = True
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
        chunks = 20
        for number in range(chunks):
            publish(self._stage, _NAME, self._healthy[number::chunks])
            publish(self._stage, _NAME, self._poison[number::chunks], poison=True)
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
        dead = Counter(stage.dead_keys(_ADDRESS))
        books = stage.books(_ADDRESS)
    verdict = check(records, dead)
    runs = Counter(record.key for record in records if record.event == "begin")
    most = max((runs[key] for key in runs if key.startswith("poison")), default=0)
    neighbours = [key for key in dead if key.startswith("healthy")]
    handled = {record.key for record in records if record.event == "end" and record.note == "processed"}
    unharmed = sum(key.startswith("healthy") for key in handled)
    figure = Figure("F9", "Messages that kill their process")
    figure.rows = {
        "killing messages, among healthy ones": f"{poison:,}, {healthy:,}",
        "processes that died of them": f"{run.deaths:,}",
        "runs of one killing message, at most": f"{most} (target {_MOST_RUNS})",
        "killing messages in the dead letters": f"{len(dead) - len(neighbours):,}",
        "healthy ones in the dead letters": zero_of(len(neighbours), run.deaths, "death"),
        "healthy ones handled": f"{unharmed:,}",
        "most runs of a healthy one": str(max((n for k, n in runs.items() if k.startswith("h")), default=0)),
        "books": str(books),
    }
    figure.problems += verdict.problems
    figure.require(most <= _MOST_RUNS, f"a killing message ran {most} times")
    figure.require(len(dead) - len(neighbours) == poison, f"{poison} were sent, dead: {dict(dead)}")
    figure.require(not neighbours, f"healthy messages became dead letters: {neighbours[:5]}")
    figure.require(unharmed == healthy, f"{healthy - unharmed} healthy messages were not handled")
    figure.seconds = time.monotonic() - begun
    return figure
