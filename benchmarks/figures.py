"""Small statistics: what several noisy rounds say."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values), len(values))


def quantile(samples: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie, without interpolation."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratio_by_round(ours: list[float], theirs: list[float]) -> Spread | None:
    """Ratios of rounds that ran side by side: noise that both saw cancels out.

    None when one of them has no rounds.
    """
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other]
    return Spread.of(pairs) if pairs else None
