"""Channels: several publishers and four kinds of subscribing agents, killed and frozen with their broker.

The books of each cursor and each inbox close at the end; a judge compares what each agent did with the log.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import redis

from agentbus.broker.embedded import ServerBinary
from agentbus.broker.keys import channel_keys
from tests.chaos.figure import Figure, zero_of
from tests.chaos.gate import Gate
from tests.chaos.judges import Finding
from tests.chaos.plan import CHANNELS, Fault, faults
from tests.chaos.reading_judge import judge_reading
from tests.chaos.readings import Reading, read
from tests.chaos.stage import RunFailed, Stage

_MAIN, _SHORT = "channel.main", "channel.short"
#: Writers to their channel, and the deadline of their publishes: a short one makes uncertain answers.
_WRITERS = {"plain": (_MAIN, 30.0), "keyed": (_MAIN, 30.0), "hasty": (_MAIN, 0.4), "brief": (_SHORT, 30.0)}
_LEASE = 2.0
#: Longer than a lease, so that others take over.
_FROZEN_SECONDS = _LEASE + 2.0
#: How much longer than before a fault of a mixed run: some must live for a lease, to take over.
_PACE = 4.0
_AWAY = "away"


@dataclass(frozen=True, slots=True)
class Kind:
    """One subscribing agent."""

    instances: int = 1
    concurrency: int = 1
    fails: bool = False
    channels: tuple[str, ...] = (_MAIN,)


_AGENTS = {
    "steady": Kind(instances=2),
    "picky": Kind(instances=2, fails=True),
    "wide": Kind(concurrency=4),
    # Absent for most of the run; meanwhile the log of one of its channels is cut.
    _AWAY: Kind(channels=(_MAIN, _SHORT)),
}


@dataclass(slots=True)
class ChannelResult:
    """What one or several runs showed together."""

    finding: Finding = field(default_factory=Finding)
    broken: Counter[str] = field(default_factory=Counter)
    published: Counter[str] = field(default_factory=Counter)
    books_closed: int = 0
    seconds: float = 0.0
    readings: list[str] = field(default_factory=list)

    def add(self, other: ChannelResult) -> None:
        """Add another run."""
        self.finding.add(other.finding)
        self.broken += other.broken
        self.published += other.published
        self.books_closed += other.books_closed
        self.seconds += other.seconds
        self.readings = other.readings


class ChannelRun:
    """One run; `run` does it."""

    def __init__(self, stage: Stage, seed: str, messages: int, kills: int) -> None:
        self._stage = stage
        self._seed = seed
        self._share = messages // len(_WRITERS)
        self._faults = list(faults(seed, kills, CHANNELS))
        self._publishers: dict[str, int] = {}
        #: Process to the agent that it serves.
        self._agents: dict[int, str] = {}
        #: Frozen process to the moment at which it may go on.
        self._frozen: dict[int, float] = {}
        self._broken: Counter[str] = Counter()
        self._books_closed = 0

    def run(self) -> ChannelResult:
        """Publish, kill, freeze, replace, drain, judge."""
        begun = time.monotonic()
        stage, gate = self._stage, Gate(self._stage.folder / "gate")
        for name, kind in _AGENTS.items():
            for _ in range(kind.instances):
                self._start_agent(name)
        for writer in _WRITERS:
            self._start_publisher(writer)
        gate.open(0.1)
        self._leave()
        for number, fault in enumerate(self._faults, 1):
            gate.open(0.1 + 0.8 * number / len(self._faults))
            time.sleep(_PACE * fault.after)
            self._thaw(time.monotonic())
            self._carry_out(fault)
        gate.open(0.9)
        self._come_back()
        gate.open(1.0)
        stage.wait(self._published, 90, "the publishers to end", every=0.1)
        self._thaw_all()
        self._wait_drained()
        stage.stop(list(self._agents))
        return self._judge(begun)

    # --- processes ---

    def _start_agent(self, name: str) -> None:
        kind = _AGENTS[name]
        pid = self._stage.start(
            "subscriber", name=name, channels=kind.channels, concurrency=kind.concurrency, fails=kind.fails,
            lease=_LEASE, seed=self._seed,
        )  # fmt: skip
        self._agents[pid] = name

    def _start_publisher(self, writer: str) -> None:
        channel, deadline = _WRITERS[writer]
        self._publishers[writer] = self._stage.start(
            "publisher", topic=f"{channel}.task", writer=writer, messages=self._share,
            idempotent=writer == "keyed", deadline=deadline, seed=self._seed,
        )  # fmt: skip

    def _published(self) -> bool:
        ended = self._stage.ended()
        return all(pid in ended for pid in self._publishers.values())

    def _leave(self) -> None:
        """One agent reads something of both channels and is killed."""

        def has_read() -> bool:
            self._stage.ended()
            read = {r.channel for r in self._stage.records() if r.agent == _AWAY and r.event == "end"}
            return read == set(_AGENTS[_AWAY].channels)

        self._stage.wait(has_read, 30, f"{_AWAY} to read both channels", every=0.05)
        (pid,) = (pid for pid, name in self._agents.items() if name == _AWAY)
        self._stage.kill(pid)
        del self._agents[pid]

    def _come_back(self) -> None:
        """What it missed on one channel is cut off first."""
        with self._stage.client() as client:
            log = channel_keys("agentbus", _SHORT).log
            client.xtrim(log, maxlen=max(1, client.xlen(log) // 3), approximate=False)
        self._start_agent(_AWAY)

    # --- faults ---

    def _carry_out(self, fault: Fault) -> None:
        for target in fault.targets:
            self._broken[target] += 1
            if target == "broker":
                self._stage.kill_broker()
            elif target == "publisher":
                self._replace_publisher(fault.pick)
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
        self._start_agent(self._agents.pop(pid))

    def _replace_publisher(self, pick: int) -> None:
        writer = list(_WRITERS)[pick % len(_WRITERS)]
        if self._stage.kill(self._publishers[writer]):
            self._start_publisher(writer)

    def _thaw(self, now: float) -> None:
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            self._stage.signal(pid, signal.SIGCONT)
            del self._frozen[pid]

    def _thaw_all(self) -> None:
        if self._frozen:
            time.sleep(max(0.0, max(self._frozen.values()) - time.monotonic()))
            self._thaw(float("inf"))

    # --- judging ---

    def _wait_drained(self) -> None:
        try:
            self._stage.wait(self._drained, 90, "the drain", every=0.2)
        except TimeoutError as error:
            raise RunFailed(f"{error}: {[str(each) for each in self._readings()]}") from error

    def _drained(self) -> bool:
        self._stage.ended()
        # A broker may be on its way back.
        with contextlib.suppress(redis.RedisError):
            return all(reading.at_rest for reading in self._readings())
        return False

    def _readings(self) -> list[Reading]:
        with self._stage.client() as client:
            return list(self._read(client))

    def _read(self, client: redis.Redis) -> Iterator[Reading]:
        for name, kind in _AGENTS.items():
            for channel in kind.channels:
                writers = tuple(writer for writer, (where, _) in _WRITERS.items() if where == channel)
                yield read(client, name, channel, writers, in_order=kind.concurrency == 1)

    def _judge(self, begun: float) -> ChannelResult:
        records, finding, readings = self._stage.records(), Finding(), self._readings()
        for reading in readings:
            finding.add(judge_reading(reading, records))
        for name in _AGENTS:
            # Raises when they do not close.
            self._stage.books(f"agent.{name}")
            self._books_closed += 1
        keys = {
            event: {record.key for record in records if record.event == event and record.key}
            for event in ("attempt", "stored", "refused")
        }
        published = Counter(
            messages=len(keys["attempt"]),
            stored=len(keys["stored"]),
            refused=len(keys["refused"] - keys["stored"]),
        )
        return ChannelResult(
            finding, self._broken, published, self._books_closed, time.monotonic() - begun,
            [f"{reading.agent} at {reading.channel}: {reading}" for reading in readings],
        )  # fmt: skip


def run_channels(
    seed: str, messages: int, kills: int, binary: ServerBinary | None = None, appendfsync: str = "everysec"
) -> ChannelResult:
    """Send ``messages`` over two channels through ``kills`` kills and freezes, on a broker of its own."""
    # As in mixed runs: what a stalled sync costs under everysec is a matter of the disk.
    with Stage(binary, appendfsync, in_memory=appendfsync == "everysec") as stage:
        return ChannelRun(stage, seed, messages, kills).run()


def channel_figure_of(result: ChannelResult) -> Figure:
    """Return the figure of channels."""
    counts, faults_ = result.finding.counts, result.broken.total()
    figure = Figure("Channels", "Subscribers of channels, killed and frozen with their broker and publishers")
    figure.problems, figure.seconds = result.finding.problems, result.seconds
    causes = (
        "death of the owner",
        "the owner lost its lease",
        "restart of the broker",
        "retry after a failure",
    )
    figure.rows = {
        "messages, to four subscribing agents": f"{result.published['messages']:,}",
        "killed or frozen": f"{faults_} ({', '.join(f'{n} {c}' for n, c in result.broken.most_common())})",
        "stored; refused": f"{result.published['stored']:,}; {result.published['refused']:,}",
        "handled, by all of them; dead letters": f"{counts['handled']:,}; {counts['dead letters']:,}",
        "trimmed while their reader was away, each told as missing": f"{counts['missed']:,}",
        "lost": zero_of(counts["lost"], faults_, "fault"),
        "unexpected": zero_of(counts["unexpected"], faults_, "fault"),
        "first deliveries in order, where order is promised": f"{counts['first deliveries in order']:,}",
        "out of order": zero_of(counts["out of order"], faults_, "fault"),
        "two handlers of one such agent at a time": zero_of(counts["beside another"], faults_, "fault"),
        "deliveries beyond the first": "; ".join(f"{cause} {counts[cause]:,}" for cause in causes),
        "without a cause": zero_of(counts["without a cause"], faults_, "fault"),
        "not marked as redelivered": zero_of(counts["not marked as redelivered"], faults_, "fault"),
        "books of inboxes that closed": f"{result.books_closed:,}",
    }
    for line in result.readings:
        who, _, counted = line.partition(": ")
        figure.rows[f"cursor of {who}, in the last run"] = counted
    return figure
