"""How a message is to be treated: priorities, retries, durability."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from agentbus.errors import InvalidValue
from agentbus.message.durations import Duration, seconds

Priority = Literal["critical", "high", "normal", "low", "background"]
Durability = Literal["stream", "disk", "replicated"]
WhenExhausted = Literal["dead", "discard"]

#: In the order in which messages of one moment are served; also the order of the lanes in scripts.
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
PRIORITY_INDEX: dict[str, int] = {priority: index for index, priority in enumerate(PRIORITIES)}
#: Milliseconds that a lane's oldest message is treated as younger (or older) than it is. A background
#: message is thus served before any high one published more than five minutes after it.
ALLOWANCE_MS: dict[Priority, int] = {
    "critical": -600_000,
    "high": 0,
    "normal": 2_000,
    "low": 30_000,
    "background": 300_000,
}
DURABILITIES: tuple[Durability, ...] = get_args(Durability)


def check_priority(priority: str) -> int:
    """Return the lane index of a priority, or raise `InvalidValue`."""
    index = PRIORITY_INDEX.get(priority) if isinstance(priority, str) else None
    if index is None:
        raise InvalidValue("priority", f"{priority!r} is not one of {', '.join(PRIORITIES)}")
    return index


def check_durability(durability: str) -> Durability:
    """Return a durability level, or raise `InvalidValue`."""
    for level in DURABILITIES:
        if durability == level:
            return level
    raise InvalidValue("durability", f"{durability!r} is not one of {', '.join(DURABILITIES)}")


@dataclass(frozen=True, slots=True)
class Retry:
    """What happens after a handler failed: exponential delays with full jitter, then an end.

    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ for full jitter.
    """

    #: Attempts after the first one; 0 = none.
    max_retries: int = 3
    #: The delay before the first retry, doubled for each later one.
    retry_delay: Duration = 30.0
    #: No delay is longer than this.
    longest_delay: Duration = 600.0
    #: No delay is shorter than this, unless ``retry_delay`` itself is.
    shortest_delay: Duration = 1.0
    #: Where a message goes when its retries are used up.
    when_exhausted: WhenExhausted = "dead"

    def __post_init__(self) -> None:
        if (
            not isinstance(self.max_retries, int)
            or isinstance(self.max_retries, bool)
            or self.max_retries < 0
        ):
            raise InvalidValue(
                "max_retries", f"must be a whole number of 0 or more, not {self.max_retries!r}"
            )
        if self.when_exhausted not in get_args(WhenExhausted):
            raise InvalidValue("when_exhausted", f"{self.when_exhausted!r} is not one of dead, discard")
        for field in ("retry_delay", "longest_delay", "shortest_delay"):
            seconds(getattr(self, field), field)

    def delay_seconds(self, attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Return the delay before retry number ``attempt`` (1 is the first), in seconds."""
        base = seconds(self.retry_delay, "retry_delay")
        longest = max(base, seconds(self.longest_delay, "longest_delay"))
        shortest = min(base, seconds(self.shortest_delay, "shortest_delay"))
        # The exponent is bounded: 2.0 ** 1100 overflows, and the cap is reached long before.
        ceiling = min(longest, base * 2.0 ** min(attempt - 1, 64))
        return max(shortest, uniform(0.0, ceiling))
