"""The processes and servers of a fleet, and how each of them is broken and comes back."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentbus.broker.keys import archive
from tests.chaos.plan import Fault, Target
from tests.chaos.stage import RunFailed, Stage
from tests.postgres import PrivatePostgres

_WORKERS, _AGENTS_EACH, _PEOPLE = 3, 2, 2
#: Seconds for which a worker is frozen at least: the others take it for dead, and it wakes among them.
_FROZEN_SECONDS = 5.0
#: The command's exit code when the broker is away as it starts; whoever runs it starts it again.
_UNAVAILABLE = 4


@dataclass(frozen=True, slots=True)
class Writer:
    """One publisher; times in seconds."""

    address: str
    deadline: float = 30.0
    idempotent: bool = False
    delay: float = 0.0


class Database:
    """PostgreSQL, which goes away in several ways and comes back."""

    def __init__(self, server: PrivatePostgres) -> None:
        self._server = server
        self._bring_back: Callable[[], None] | None = None

    @property
    def dsn(self) -> str:
        """Its connection string."""
        return self._server.dsn

    def take_away(self, pick: int) -> str:
        """Kill, stop or freeze it; returns what was done."""
        self.bring_back()
        match pick % 3:
            case 0:
                self._server.kill()
                self._bring_back = self._server.restart
                return "killed"
            case 1:
                self._server.stop()
                self._bring_back = self._server.restart
                return "stopped"
            case _:
                self._server.freeze()
                self._bring_back = self._server.thaw
                return "frozen"

    def bring_back(self) -> None:
        """Let it be there."""
        back, self._bring_back = self._bring_back, None
        if back is not None:
            back()


class Crew:
    """Everybody in a run."""

    def __init__(
        self, stage: Stage, database: Database, writers: Mapping[str, Writer], share: int, seed: str
    ) -> None:
        """``share`` messages are published by each of ``writers``."""
        self._stage = stage
        self._database = database
        self._writers = writers
        self._inboxes = tuple(sorted({writer.address for writer in writers.values()}))
        self._share = share
        self._seed = seed
        self._publishers: dict[str, int] = {}
        #: Process id to the name it goes by.
        self._agents: dict[int, str] = {}
        self._people: dict[int, str] = {}
        self._workers: list[int] = []
        self._frozen: int | None = None
        self._frozen_at = 0.0
        #: What was killed, stopped or frozen.
        self.broken: Counter[str] = Counter()

    # --- beginning ---

    def start(self) -> None:
        """Start everybody."""
        for _ in range(_WORKERS):
            self._start_worker()
        # What ends before the archive is on is nobody's promise.
        self._stage.wait(self._is_archiving, 30, "the archive to be on", every=0.1)
        for address in self._inboxes * _AGENTS_EACH:
            self._start_agent(address.partition(".")[2])
        for number in range(_PEOPLE):
            self._start_person(f"person{number}")
        for name in self._writers:
            self._start_publisher(name)

    def _is_archiving(self) -> bool:
        self.replace_workers()
        with self._stage.client() as client:
            return bool(client.hget(archive("agentbus"), "on") == b"1")

    def start_workers(self, *roles: str) -> int:
        """Start ``python -m workers`` with some roles, all when none is named; returns the process id."""
        pid = self._stage.start("workers", archive=self._database.dsn, roles=roles)
        self._stage.expect_end(pid)
        return pid

    def _start_worker(self) -> None:
        self._workers.append(self.start_workers())

    def _start_agent(self, name: str) -> None:
        pid = self._stage.start("agent", name=name, manner="fail_for_good", seed=self._seed)
        self._agents[pid] = name

    def _start_person(self, name: str) -> None:
        pid = self._stage.start("person", name=name, addresses=self._inboxes, seed=self._seed)
        self._people[pid] = name

    def _start_publisher(self, name: str) -> None:
        writer = self._writers[name]
        self._publishers[name] = self._stage.start(
            "publisher", topic=f"{writer.address}.task", writer=name, messages=self._share,
            idempotent=writer.idempotent, deadline=writer.deadline, delay=writer.delay, seed=self._seed,
        )  # fmt: skip

    # --- breaking ---

    def carry_out(self, fault: Fault) -> None:
        """Break what the fault says; PostgreSQL and a frozen worker stay so for some more of them."""
        if fault.pick % 2:
            self._database.bring_back()
        if time.monotonic() - self._frozen_at > _FROZEN_SECONDS:
            self._thaw()
        for target in fault.targets:
            self.broken[self._break(target, fault.pick)] += 1
        if "broker" in fault.targets:
            time.sleep(fault.away)
            self._stage.start_broker()

    def heal(self) -> None:
        """Bring back what was taken away, and wake what was frozen."""
        self._database.bring_back()
        self._thaw()

    def _thaw(self) -> None:
        frozen, self._frozen = self._frozen, None
        if frozen is not None:
            self._stage.signal(frozen, signal.SIGCONT)

    def _break(self, target: Target, pick: int) -> str:
        """Break one thing; returns what is to be counted."""
        match target:
            case "broker":
                self._stage.kill_broker()
            case "database":
                return f"PostgreSQL {self._database.take_away(pick)}"
            case "worker" if pick % 4 == 0 and self._frozen is None:
                self._frozen = self._workers[pick % len(self._workers)]
                self._frozen_at = time.monotonic()
                self._stage.freeze(self._frozen)
                return "worker frozen"
            case "worker":
                self._kill_worker(pick)
            case "agent":
                self._start_agent(self._kill_one(self._agents, pick))
            case "person":
                self._start_person(self._kill_one(self._people, pick))
            case "publisher":
                self._kill_publisher(pick)
        return target

    def _kill_worker(self, pick: int) -> None:
        pid = self._workers.pop(pick % len(self._workers))
        self._stage.kill(pid)
        if pid == self._frozen:
            self._frozen = None
        self._start_worker()

    def _kill_one(self, living: dict[int, str], pick: int) -> str:
        """Kill one of them; returns its name."""
        pid = list(living)[pick % len(living)]
        if not self._stage.kill(pid):
            raise RunFailed(f"{living[pid]} had ended by itself")
        return living.pop(pid)

    def _kill_publisher(self, pick: int) -> None:
        name = list(self._writers)[pick % len(self._writers)]
        if not self._stage.kill(self._publishers[name]):
            raise RunFailed("a publisher had ended before all was released")
        self._start_publisher(name)

    def replace_workers(self) -> None:
        """Start again what could not start without a broker; whatever else ends is a fault of the product."""
        ended = self._stage.ended()
        for pid in [pid for pid in self._workers if pid in ended]:
            if ended[pid] != _UNAVAILABLE:
                raise RunFailed(f"worker {pid} ended with {ended[pid]}:\n{self._stage.said(pid)}")
            self._workers.remove(pid)
            self._start_worker()

    # --- ending ---

    @property
    def published(self) -> bool:
        """Whether every publisher is done."""
        ended = self._stage.ended()
        return all(pid in ended for pid in self._publishers.values())

    def stop_people(self) -> None:
        """Let everybody end what they do about a letter, and go."""
        self._stage.stop(list(self._people))

    def stop_agents(self) -> None:
        """Stop the agents."""
        self._stage.stop(list(self._agents))

    def stop_workers(self) -> None:
        """Stop the workers, each of which must end well."""
        # One that is still loading its modules knows no order to stop.
        self._stage.wait(self._all_work, 30, "the workers to begin", every=0.1)
        pids, self._workers = self._workers, []
        self._stage.stop(pids)
        for pid in pids:
            if self._stage.ended()[pid] != 0:
                raise RunFailed(f"worker {pid} did not stop well:\n{self._stage.said(pid)}")

    def _all_work(self) -> bool:
        self.replace_workers()
        # Their first word comes when they listen to signals.
        return all(self._stage.has_spoken(pid) for pid in self._workers)
