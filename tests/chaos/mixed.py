"""F1, F2 and F14: messages through kills of broker, agents and publishers; the books close after each."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from agentbus.broker.embedded import ServerBinary
from tests.chaos.checker import Verdict, check
from tests.chaos.figure import Figure, zero_of
from tests.chaos.gate import Gate
from tests.chaos.plan import Fault, Target, faults
from tests.chaos.stage import RunFailed, Stage

_NAME = "worker"
_ADDRESS = f"agent.{_NAME}"
#: Writers, with the deadline of their publishes: a short one makes uncertain answers.
_WRITERS = {"plain": 30.0, "keyed": 30.0, "hasty": 0.4}
_AGENTS = 3
#: Bytes that a torn file is short of: some steps.
_LONGEST_TEAR = 8_000


@dataclass(slots=True)
class MixedResult:
    """What one or several mixed runs showed together."""

    verdict: Verdict = field(default_factory=Verdict)
    kills: Counter[Target] = field(default_factory=Counter)
    #: Runs by the way their broker synced its file.
    syncs: Counter[str] = field(default_factory=Counter)
    #: How often the books were looked at; each time they closed, or the run would have failed.
    books_closed: int = 0
    seconds: float = 0.0
    books: list[str] = field(default_factory=list)

    def add(self, other: MixedResult) -> None:
        """Add another run."""
        self.verdict.add(other.verdict)
        self.kills += other.kills
        self.syncs += other.syncs
        self.books_closed += other.books_closed
        self.seconds += other.seconds
        self.books += other.books


class MixedRun:
    """One run; `run` does it."""

    def __init__(self, stage: Stage, seed: str, messages: int, kills: int, tears: bool = False) -> None:
        self._stage = stage
        self._seed = seed
        self._share = messages // len(_WRITERS)
        self._faults = list(faults(seed, kills))
        #: How much of its file each kill of the broker takes along; None leaves that to chance.
        self._tears = random.Random(f"{seed} tears") if tears else None
        self._publishers: dict[str, int] = {}
        self._agents: list[int] = []
        self._kills: Counter[Target] = Counter()
        self._books_closed = 0

    def run(self) -> MixedResult:
        """Publish, kill, replace, drain, judge."""
        begun = time.monotonic()
        stage, gate = self._stage, Gate(self._stage.folder / "gate")
        for _ in range(_AGENTS):
            self._start_agent()
        for writer in _WRITERS:
            self._start_publisher(writer)
        for number, fault in enumerate(self._faults, 1):
            gate.open(number / (len(self._faults) + 1))
            time.sleep(fault.after)
            self._carry_out(fault)
            self._check_books()
        gate.open(1.0)
        stage.wait(self._published, 90, "the publishers to end", every=0.1)
        stage.wait_drained(_ADDRESS)
        stage.stop(self._agents)
        self._check_books()
        verdict = check(
            stage.records(), stage.dead_keys(_ADDRESS), stage.queued_keys(_ADDRESS),
            writes_late=stage.appendfsync != "always",
        )  # fmt: skip
        self._compare_with_books(verdict)
        final = str(stage.books(_ADDRESS))
        if verdict.problems:
            stage.keep_evidence("; ".join(verdict.problems))
        return MixedResult(
            verdict, self._kills, Counter([stage.appendfsync]), self._books_closed, time.monotonic() - begun,
            [final],
        )  # fmt: skip

    # --- processes ---

    def _start_agent(self) -> None:
        self._agents.append(self._stage.start("agent", name=_NAME, manner="work", seed=self._seed))

    def _start_publisher(self, writer: str) -> None:
        self._publishers[writer] = self._stage.start(
            "publisher", topic=f"{_ADDRESS}.task", writer=writer, messages=self._share,
            idempotent=writer == "keyed", deadline=_WRITERS[writer], seed=self._seed,
        )  # fmt: skip

    def _published(self) -> bool:
        ended = self._stage.ended()
        return all(pid in ended for pid in self._publishers.values())

    # --- faults ---

    def _carry_out(self, fault: Fault) -> None:
        for target in fault.targets:
            self._kills[target] += 1
            if target == "broker":
                self._kill_broker()
            elif target == "agent":
                self._kill_agent(fault.pick)
            else:
                self._kill_publisher(fault.pick)
        if "broker" in fault.targets:
            time.sleep(fault.away)
            self._stage.start_broker()

    def _kill_broker(self) -> None:
        self._stage.kill_broker()
        if self._tears:
            self._stage.tear_file(self._tears.randint(1, _LONGEST_TEAR))

    def _kill_agent(self, pick: int) -> None:
        pid = self._agents.pop(pick % len(self._agents))
        if not self._stage.kill(pid):
            raise RunFailed("an agent had ended by itself")
        self._start_agent()

    def _kill_publisher(self, pick: int) -> None:
        writer = list(_WRITERS)[pick % len(_WRITERS)]
        if not self._stage.kill(self._publishers[writer]):
            raise RunFailed("a publisher had ended before all was released")
        self._start_publisher(writer)

    # --- judging ---

    def _check_books(self) -> None:
        self._stage.ended()
        self._stage.books(_ADDRESS)
        self._books_closed += 1

    def _compare_with_books(self, verdict: Verdict) -> None:
        """A broker that writes before it answers must not have accepted less than it said it stored."""
        accepted = self._stage.books(_ADDRESS)["accepted"]
        if self._stage.appendfsync == "always" and accepted < verdict.stored:
            raise RunFailed(f"{verdict.stored} messages were stored, but the broker counts {accepted}")


def run_mixed(
    seed: str,
    messages: int,
    kills: int,
    binary: ServerBinary | None = None,
    appendfsync: str = "everysec",
    tears: bool = False,
) -> MixedResult:
    """Send ``messages`` through ``kills`` SIGKILLs on a broker of its own.

    ``tears``: each kill of the broker meets it in the middle of a write, which only few do by themselves.
    """
    # A server that syncs every second holds writes back while a sync takes long, and a kill then takes
    # confirmed ones along: that is a matter of the disk, which others use too, and not of what is looked at.
    with Stage(binary, appendfsync, in_memory=appendfsync == "everysec") as stage:
        return MixedRun(stage, seed, messages, kills, tears).run()


def figures_of(result: MixedResult) -> list[Figure]:
    """Return F1 (losses), F2 (duplicates) and F14 (books) of mixed runs."""
    return [_losses(result), _duplicates(result), _books(result)]


def _losses(result: MixedResult) -> Figure:
    verdict, kills = result.verdict, result.kills.total()
    figure = Figure("F1", "Messages through SIGKILLs", problems=verdict.problems, seconds=result.seconds)
    figure.rows = {
        "messages": f"{verdict.attempts:,}",
        "SIGKILLs": f"{kills} ({', '.join(f'{target} {n}' for target, n in result.kills.most_common())})",
        "runs, by appendfsync": ", ".join(f"{sync} {n}" for sync, n in sorted(result.syncs.items())),
        "stored; uncertain to their publisher; refused": (
            f"{verdict.stored:,}; {verdict.uncertain:,}; {verdict.refused:,}"
        ),
        "handled; dead letters; still queued": f"{verdict.handled:,}; {verdict.dead:,}; {verdict.queued:,}",
        "lost": zero_of(len(verdict.lost), kills, "kill"),
        "gone with the last steps of a killed server, which everysec allows": f"{len(verdict.unwritten):,}",
        "lost by place among their writer's": str(dict(verdict.lost_where) or "none"),
        "unexpected": zero_of(len(verdict.unexpected), kills, "kill"),
        "recovered (uncertain, but handled)": f"{verdict.recovered:,}",
    }
    return figure


def _duplicates(result: MixedResult) -> Figure:
    verdict, kills = result.verdict, result.kills.total()
    figure = Figure("F2", "Deliveries beyond a message's first, in the runs of F1")
    figure.rows = {
        "all": f"{verdict.duplicates.total() + len(verdict.unattributed):,}",
        **{cause: f"{count:,}" for cause, count in verdict.duplicates.most_common()},
        "without a cause": zero_of(len(verdict.unattributed), kills, "kill"),
        "not marked, their first forgotten with the last steps of a killed server": f"{verdict.forgotten:,}",
        "not marked as redelivered": zero_of(len(verdict.unmarked), kills, "kill"),
    }
    return figure


def _books(result: MixedResult) -> Figure:
    figure = Figure("F14", "The books of the address, in the runs of F1")
    figure.rows = {
        "looks, one after each fault and one at the end": f"{result.books_closed:,}",
        # A look that does not close ends the run with an error.
        "times they did not close": zero_of(0, result.books_closed, "look"),
        "at the end of the last run": result.books[-1],
    }
    return figure
