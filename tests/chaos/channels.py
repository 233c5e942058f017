"""Channels: several publishers and four kinds of subscribing agents, killed and frozen with their broker.

The books of each cursor and each inbox close at the end; a judge compares what each agent did with the log.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import redis

from agentbus.broker.embedded import ServerBinary
from agentbus.broker.keys import channel_keys
from tests.chaos.cast import LEASE, Cast
from tests.chaos.figure import Figure, zero_of
from tests.chaos.gate import Gate
from tests.chaos.judges import Finding
from tests.chaos.mishaps import broken_told, causes_told
from tests.chaos.plan import CHANNELS, faults
from tests.chaos.reading_judge import judge_reading
from tests.chaos.readings import Reading, read
from tests.chaos.stage import RunFailed, Stage

_MAIN, _SHORT = "channel.main", "channel.short"
#: Writers to their channel, and the deadline of their publishes: a short one makes uncertain answers.
_WRITERS = {"plain": (_MAIN, 30.0), "keyed": (_MAIN, 30.0), "hasty": (_MAIN, 0.4), "brief": (_SHORT, 30.0)}
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
        self._cast = Cast(stage, self._start_agent, self._start_publisher)
        self._books_closed = 0

    def run(self) -> ChannelResult:
        """Publish, kill, freeze, replace, drain, judge."""
        begun = time.monotonic()
        stage, cast, gate = self._stage, self._cast, Gate(self._stage.folder / "gate")
        for name, kind in _AGENTS.items():
            for _ in range(kind.instances):
                cast.add_agent(name)
        for writer in _WRITERS:
            cast.add_writer(writer)
        gate.open(0.1)
        self._leave()
        cast.suffer(self._faults, gate, 0.1, 0.9)
        self._come_back()
        gate.open(1.0)
        stage.wait(cast.have_written, 90, "the publishers to end", every=0.1)
        cast.thaw_all()
        self._wait_drained()
        stage.stop(cast.agents)
        return self._judge(begun)

    # --- processes ---

    def _start_agent(self, name: str) -> int:
        kind = _AGENTS[name]
        return self._stage.start(
            "subscriber", name=name, channels=kind.channels, concurrency=kind.concurrency, fails=kind.fails,
            lease=LEASE, seed=self._seed,
        )  # fmt: skip

    def _start_publisher(self, writer: str) -> int:
        channel, deadline = _WRITERS[writer]
        return self._stage.start(
            "publisher", topic=f"{channel}.task", writer=writer, messages=self._share,
            idempotent=writer == "keyed", deadline=deadline, seed=self._seed,
        )  # fmt: skip

    def _leave(self) -> None:
        """One agent reads something of both channels and is killed."""

        def has_read() -> bool:
            self._stage.ended()
            read = {r.channel for r in self._stage.records() if r.agent == _AWAY and r.event == "end"}
            return read == set(_AGENTS[_AWAY].channels)

        self._stage.wait(has_read, 30, f"{_AWAY} to read both channels", every=0.05)
        self._cast.send_away(_AWAY)

    def _come_back(self) -> None:
        """What it missed on one channel is cut off first."""
        with self._stage.client() as client:
            log = channel_keys("agentbus", _SHORT).log
            client.xtrim(log, maxlen=max(1, client.xlen(log) // 3), approximate=False)
        self._cast.add_agent(_AWAY)

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
            finding, self._cast.broken, published, self._books_closed, time.monotonic() - begun,
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
    figure.rows = {
        "messages, to four subscribing agents": f"{result.published['messages']:,}",
        "killed or frozen": broken_told(result.broken),
        "stored; refused": f"{result.published['stored']:,}; {result.published['refused']:,}",
        "handled, by all of them; dead letters": f"{counts['handled']:,}; {counts['dead letters']:,}",
        "trimmed while their reader was away, each told as missing": f"{counts['missed']:,}",
        "lost": zero_of(counts["lost"], faults_, "fault"),
        "unexpected": zero_of(counts["unexpected"], faults_, "fault"),
        "first deliveries in order, where order is promised": f"{counts['first deliveries in order']:,}",
        "out of order": zero_of(counts["out of order"], faults_, "fault"),
        "two handlers of one such agent at a time": zero_of(counts["beside another"], faults_, "fault"),
        "deliveries beyond the first": causes_told(counts),
        "without a cause": zero_of(counts["without a cause"], faults_, "fault"),
        "not marked as redelivered": zero_of(counts["not marked as redelivered"], faults_, "fault"),
        "books of inboxes that closed": f"{result.books_closed:,}",
    }
    for line in result.readings:
        who, _, counted = line.partition(": ")
        figure.rows[f"cursor of {who}, in the last run"] = counted
    return figure
