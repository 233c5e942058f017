"""The processes of a run in which agents and writers are killed and frozen, and their broker with them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.chaos.gate import Gate
from tests.chaos.plan import Fault
from tests.chaos.stage import RunFailed, Stage

LEASE = 2.0
#: Longer than a lease, so that others take over.
_FROZEN_SECONDS = LEASE + 2.0
#: How much longer than before a fault of a mixed run: some must live for a lease, to take over.
_PACE = 4.0
#: The same for the death of a writer, which is to find it at work: it has little to write between two faults.
_WRITERS_PACE = 0.4


class Cast:
    """Who is on the stage, and what happens to them."""

    def __init__(
        self, stage: Stage, start_agent: Callable[[str], int], start_writer: Callable[[str], int]
    ) -> None:
        """The two callables start one process of that name, and return its id."""
        self._stage = stage
        self._start_agent = start_agent
        self._start_writer = start_writer
        self._writers: dict[str, int] = {}
        #: Process to the agent that it serves.
        self._agents: dict[int, str] = {}
        #: Frozen process to the moment at which it may go on.
        self._frozen: dict[int, float] = {}
        self.broken: Counter[str] = Counter()

    @property
    def agents(self) -> list[int]:
        """The processes that serve agents now."""
        return list(self._agents)

    def add_agent(self, name: str) -> None:
        """Start one process of an agent."""
        self._agents[self._start_agent(name)] = name

    def add_writer(self, name: str) -> None:
        """Start a writer."""
        self._writers[name] = self._start_writer(name)

    def send_away(self, name: str) -> None:
        """Kill the one process of an agent, and start no other."""
        (pid,) = (pid for pid, served in self._agents.items() if served == name)
        self._stage.kill(pid)
        del self._agents[pid]

    def have_written(self) -> bool:
        """Whether all writers have ended."""
        ended = self._stage.ended()
        return all(pid in ended for pid in self._writers.values())

    # --- faults ---

    def suffer(self, faults: Sequence[Fault], gate: Gate, first: float, last: float) -> None:
        """Carry out faults one after the other, while the share that is released grows."""
        for number, fault in enumerate(faults, 1):
            gate.open(first + (last - first) * number / len(faults))
            time.sleep(fault.after * (_WRITERS_PACE if "publisher" in fault.targets else _PACE))
            self._thaw(time.monotonic())
            self._carry_out(fault)

    def _carry_out(self, fault: Fault) -> None:
        for target in fault.targets:
            self.broken[target] += 1
            if target == "broker":
                self._stage.kill_broker()
            elif target == "publisher":
                self._replace_writer(fault.pick)
            else:
                self._break_agent(fault.pick, frozen=target == "frozen")
        if "broker" in fault.targets:
            time.sleep(fault.away)
            self._stage.start_broker()

    def _break_agent(self, pick: int, frozen: bool) -> None:
        running = sorted(self._agents.keys() - self._frozen.keys())
        if frozen and running:
            pid = running[pick % len(running)]
            self._stage.freeze(pid)
            self._frozen[pid] = time.monotonic() + _FROZEN_SECONDS
            return
        able = running or sorted(self._agents)
        pid = able[pick % len(able)]
        self._frozen.pop(pid, None)
        if not self._stage.kill(pid):
            raise RunFailed("an agent had ended by itself")
        self.add_agent(self._agents.pop(pid))

    def _replace_writer(self, pick: int) -> None:
        name = list(self._writers)[pick % len(self._writers)]
        if self._stage.kill(self._writers[name]):
            self.add_writer(name)

    def _thaw(self, now: float) -> None:
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            self._stage.signal(pid, signal.SIGCONT)
            del self._frozen[pid]

    def thaw_all(self) -> None:
        """Let everybody go on whose time has come, and wait until it has for all."""
        if self._frozen:
            time.sleep(max(0.0, max(self._frozen.values()) - time.monotonic()))
            self._thaw(float("inf"))
