"""Pauses between attempts to reach something that does not answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Exponential back-off with full jitter, so that a fleet does not reconnect in one instant."""

    #: Seconds; the ceiling of the first pause.
    first: float = 0.05
    #: Seconds; the ceiling of every later pause.
    longest: float = 2.0
    uniform: Callable[[float, float], float] = random.uniform
    failures: int = field(default=0, init=False)

    def next_pause(self) -> float:
        """Count one more failure and return the pause before the next attempt, in seconds."""
        ceiling = min(self.longest, self.first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return self.uniform(0.0, ceiling)

    def reset(self) -> None:
        """Forget the failures: the thing answered."""
        self.failures = 0
