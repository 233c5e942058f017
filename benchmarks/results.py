"""What a run found: plain data between the measuring and the telling."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from .figures import Spread, quantile, ratio_by_round

Key = tuple[str, str]
"""Candidate and measure."""

PUBLISH, CONSUME, LATENCY = "publish", "consume", "latency"
BOTH_OUT, BOTH_IN = "both, out", "both, in"
ONE_TRIP, AT_ONCE, SEND_TO_MANY = "round trip", "round trips at once", "send to many"


def fan_out(subscribers: int) -> str:
    """The measure: deliveries a second to so many subscribers of one channel."""
    return f"fan-out to {subscribers}"


@dataclass(frozen=True, slots=True)
class Backlog:
    """What many waiting messages cost."""

    messages: int
    raw_bytes: float
    """Per message, in bytes, of raw entries with the same body."""
    raw_envelope_bytes: float
    """Per message, of raw entries that carry as much text as ours do: the body and who sent what when."""
    own_bytes: float
    stored_text_bytes: int
    slowdown: dict[str, float]
    """Measure -> how many times slower with the backlog than without; 1.0 is no difference."""

    @property
    def memory_ratio(self) -> float:
        return self.own_bytes / self.raw_bytes

    @property
    def envelope_ratio(self) -> float:
        return self.own_bytes / self.raw_envelope_bytes


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many agents, all sending, in a few processes."""

    agents: int
    processes: int
    messages: int
    seconds: float
    unhandled: int
    slowest_sender: float
    """Seconds the slowest agent needed for its messages, over the median agent's."""
    fewest_share: float
    """Share of its messages that the unluckiest agent had handled when sending ended, over the median's."""
    latency_median: float
    latency_p99: float
    latency_worst: float

    @property
    def starved(self) -> bool:
        return self.unhandled > 0 or self.slowest_sender > 2.0 or self.fewest_share < 0.5


@dataclass(frozen=True, slots=True)
class Revival:
    """Dead letters retried beside fresh messages."""

    letters: int
    retry_rate: float
    """Letters a second."""
    fresh_before: float
    """Fresh messages handled a second without the retries."""
    fresh_beside: float
    closes: bool
    """Whether every message of the inbox was accounted for afterwards."""

    @property
    def slowdown(self) -> float:
        return self.fresh_before / self.fresh_beside


@dataclass(frozen=True, slots=True)
class Idle:
    """What subscribers of a channel cost that hear nothing, in shares of a core."""

    subscribers: int
    processes: float
    server: float


@dataclass(slots=True)
class Results:
    """Everything one run found."""

    values: dict[Key, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    samples: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    failures: dict[str, str] = field(default_factory=dict)
    """Candidate or scenario -> why it has no figures."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    backlog: Backlog | None = None
    crowd: Crowd | None = None
    revival: Revival | None = None
    idle: Idle | None = None
    seconds: float = 0.0

    def spread(self, candidate: str, measure: str) -> Spread | None:
        """Over the rounds; None when nothing was measured."""
        values = list(self.values.get((candidate, measure), {}).values())
        return Spread.of(values) if values else None

    def ratio(self, ours: Key, theirs: Key) -> Spread | None:
        """Ours over theirs, by round; None when one of them was not measured."""
        mine, other = self.values.get(ours, {}), self.values.get(theirs, {})
        shared = sorted(mine.keys() & other.keys())
        return ratio_by_round([mine[number] for number in shared], [other[number] for number in shared])

    def add_latency(self, candidate: str, number: int, samples: list[float]) -> None:
        """Keep all samples of a round, and its median as the round's value."""
        self.samples[candidate][number] = samples
        self.values[candidate, LATENCY][number] = quantile(samples, 0.5)

    def latency_quantile(self, candidate: str, share: float) -> float | None:
        """Over all rounds together, in seconds."""
        rounds = self.samples.get(candidate, {})
        together = [sample for samples in rounds.values() for sample in samples]
        return quantile(together, share) if together else None

    def as_json(self) -> dict[str, Any]:
        """Everything but the single latency samples, for machines."""
        return {
            "rounds": {
                f"{name} / {measure}": list(values.values())
                for (name, measure), values in self.values.items()
            },
            "failures": self.failures,
            "versions": self.versions,
            "machine": self.machine,
            "seconds": self.seconds,
            "backlog": _slots(self.backlog),
            "crowd": _slots(self.crowd),
            "revival": _slots(self.revival),
            "idle": _slots(self.idle),
        }


def _slots(found: Backlog | Crowd | Revival | Idle | None) -> dict[str, Any] | None:
    return {name: getattr(found, name) for name in found.__slots__} if found else None
