"""F4, the other half: handlers far longer than the lease keep their message while they live."""

from __future__ import annotations

import time

from agentbus.broker.embedded import ServerBinary
from tests.chaos.checker import check
from tests.chaos.figure import Figure, zero_of
from tests.chaos.recovery import publish
from tests.chaos.stage import Stage

#: Twice the interval between beats: the shortest lease that makes sense.
_LEASE = 2.0
_NAMES = {"patient": "sleep", "busy": "compute"}


def run_patience(times_lease: int, binary: ServerBinary | None = None) -> Figure:
    """Let handlers run ``times_lease`` leases, one that waits and one that blocks its loop with Python."""
    begun = time.monotonic()
    seconds = _LEASE * times_lease
    reclaimed = 0
    with Stage(binary) as stage:
        workers = []
        for name, manner in _NAMES.items():
            # Two of each, so that there is somebody to take over, wrongly.
            for _ in range(2):
                workers.append(
                    stage.start(
                        "agent", name=name, manner=manner, concurrency=1, lease=_LEASE, seconds=seconds
                    )
                )
            publish(stage, name, [f"{name}-0"])
        for name in _NAMES:
            stage.wait_drained(f"agent.{name}", seconds=seconds + 30)
            reclaimed += stage.books(f"agent.{name}")["reclaimed"]
        stage.stop(workers)
        verdict = check(stage.records())
        fenced = sum(record.event == "fenced" for record in stage.records())
    figure = Figure("F4b", "Handlers longer than the lease")
    figure.rows = {
        "handlers": f"{len(_NAMES)}: one waits, one blocks its event loop with pure Python",
        "length": f"{seconds:.0f} s, {times_lease} leases of {_LEASE:.0f} s",
        "taken from a living owner": zero_of(reclaimed, len(_NAMES) * times_lease, "lease"),
    }
    figure.problems += verdict.problems
    figure.require(reclaimed == 0, f"{reclaimed} messages were taken from living owners")
    figure.require(not verdict.duplicates, f"redelivered: {dict(verdict.duplicates)}")
    figure.require(fenced == 0, f"{fenced} living consumers were fenced")
    figure.seconds = time.monotonic() - begun
    return figure
