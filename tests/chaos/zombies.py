"""F5: settlements of a consumer that was frozen past its lease: the broker accepts none of them."""

from __future__ import annotations

import math
import signal
import time

from agentbus.broker.embedded import ServerBinary
from tests.chaos.checker import check
from tests.chaos.figure import Figure, zero_of
from tests.chaos.history import Record
from tests.chaos.recovery import publish
from tests.chaos.stage import Stage

_AT_ONCE = 4
#: Longer than a lease, a look, and what a busy machine adds.
_TAKEOVER_SECONDS = 30.0


class ZombieRound:
    """Some consumers take messages, are frozen, lose them to an agent, wake up and settle."""

    def __init__(self, stage: Stage, number: int, messages: int) -> None:
        self._stage = stage
        self._messages = messages
        self._names = [f"grave-{number}-{index}" for index in range(_AT_ONCE)]
        self._zombies: list[int] = []
        self._rescuers: list[int] = []

    def run(self) -> None:
        """Do one round; afterwards every message was handled by the rescuers."""
        stage = self._stage
        for name in self._names:
            publish(stage, name, [f"{name}-{index}" for index in range(self._messages)])
            address = f"agent.{name}"
            self._zombies.append(stage.start("zombie", address=address, most=self._messages))
        stage.wait(lambda: self._count("holding") == _AT_ONCE, 30, "the zombies to hold", every=0.05)
        for name in self._names:
            self._rescuers.append(stage.start("agent", name=name, manner="sleep"))
        # While they beat nobody takes anything.
        for pid in self._zombies:
            stage.freeze(pid)
        for name in self._names:
            stage.wait_drained(f"agent.{name}", _TAKEOVER_SECONDS)
            (stage.folder / f"settle-agent.{name}").touch()
        for pid in self._zombies:
            stage.signal(pid, signal.SIGCONT)
        stage.wait(lambda: all(pid in stage.ended() for pid in self._zombies), 20, "the zombies to end")
        stage.stop(self._rescuers)
        for name in self._names:
            self._check_address(f"agent.{name}")

    def _count(self, event: str) -> int:
        self._stage.ended()
        return sum(record.event == event and record.pid in self._zombies for record in self._stage.records())

    def _check_address(self, address: str) -> None:
        books = self._stage.books(address)
        if books["processed"] != self._messages:
            raise AssertionError(f"{address}: {self._messages} messages, but {books}")


def run_zombies(settlements: int, binary: ServerBinary | None = None) -> Figure:
    """Send about ``settlements`` stale settlements to the broker; and let whole agents wake up too."""
    begun = time.monotonic()
    each = max(1, min(500, settlements // (2 * _AT_ONCE)))
    rounds = max(1, math.ceil(settlements / (2 * each * _AT_ONCE)))
    with Stage(binary) as stage:
        for number in range(rounds):
            ZombieRound(stage, number, each).run()
        ran_on = _wake_whole_agent(stage)
        records = stage.records()
        problems = check(records).problems
    accepted = _sum(records, "settled")
    refused = _sum(records, "stale")
    figure = Figure("F5", "Settlements after the lease was lost")
    figure.rows = {
        "stale settlements sent, in batches": f"{accepted + refused:,} by {rounds * _AT_ONCE} consumers",
        "accepted": zero_of(accepted, rounds * _AT_ONCE, "frozen consumer"),
        "handlers of a frozen agent that ran on": str(ran_on),
    }
    figure.problems += problems
    figure.require(accepted == 0, f"{accepted} stale settlements were accepted")
    figure.require(refused > 0, "no stale settlement was sent")
    figure.require(ran_on == 0, f"{ran_on} handlers went on after the freeze")
    figure.seconds = time.monotonic() - begun
    return figure


def _sum(records: list[Record], event: str) -> int:
    return sum(record.attempt for record in records if record.event == event)


def _wake_whole_agent(stage: Stage) -> int:
    """Freeze an agent whose handlers could end at once when it wakes; return how many did."""
    name, messages = "sleeper", 20
    frozen = stage.start("agent", name=name, manner="wait_for_file", concurrency=messages)
    publish(stage, name, [f"{name}-{index}" for index in range(messages)])

    def lines(event: str) -> list[Record]:
        return [r for r in stage.records() if r.event == event and r.pid == frozen]

    stage.wait(lambda: len(lines("begin")) == messages, 20, "the handlers to begin", every=0.05)
    rescuer = stage.start("agent", name=name, manner="sleep", concurrency=messages)
    stage.freeze(frozen)
    stage.wait_drained(f"agent.{name}", _TAKEOVER_SECONDS)
    (stage.folder / "go").touch()
    stage.signal(frozen, signal.SIGCONT)
    stage.wait(lambda: bool(lines("fenced")), 20, "the woken agent to notice", every=0.05)
    stage.stop([frozen, rescuer])
    return sum(record.note == "processed" for record in lines("end"))
