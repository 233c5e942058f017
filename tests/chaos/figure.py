"""One published figure: what was counted, and what broke."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Figure:
    """The result of one run, as it is shown to people."""

    name: str
    title: str
    #: What was counted, in the order in which it is shown.
    rows: dict[str, str] = field(default_factory=dict)
    #: Promises that did not hold; empty when all did.
    problems: list[str] = field(default_factory=list)
    #: Targets that were missed without anything being lost: shown, and a failure of the long run only.
    missed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def require(self, holds: bool, problem: str) -> None:
        """Note a broken promise unless it holds."""
        if not holds:
            self.problems.append(problem)


def zero_of(found: int, trials: int, what: str) -> str:
    """Say a count; beside a zero stands what it bounds, by the rule of three.

    Nothing in N independent trials means a probability below 3/N with 95 % confidence.
    """
    if found or not trials:
        return f"{found:,}"
    return f"0 (with 95 % confidence below {3 / trials:.2g} per {what}: 3/{trials:,})"


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie (nearest rank, so one that was measured)."""
    ranked = sorted(values)
    # Without the hair's breadth, 0.07 * 100 would be a little more than 7.
    return ranked[max(0, math.ceil(share * len(ranked) - 1e-9) - 1)]
