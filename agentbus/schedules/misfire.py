"""What happens to ticks that nobody was there to send: the policy, and the steps it leads to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from agentbus.errors import InvalidValue
from agentbus.schedules.spec import Spec, next_tick

#: Ticks that one plan looks at: a year of missed minutes is worked off in steps.
_MOST_LOOKED_AT = 2_000
_MOST_SENT = 1_000


@dataclass(frozen=True, slots=True)
class Misfire:
    """``skip``: missed ticks get no message; ``once``: one for all of them; ``all:<most>``: one each."""

    kind: Literal["skip", "once", "all"]
    #: Of ``all``: how many of the missed ticks get a message at most, the latest ones.
    most: int = 0

    @classmethod
    def parse(cls, text: str) -> Misfire:
        """Return the policy in a text; raises `InvalidValue`."""
        if text == "skip":
            return cls("skip")
        if text == "once":
            return cls("once", 1)
        found = re.fullmatch(r"all:(\d{1,4})", text) if isinstance(text, str) else None
        if found and 1 <= int(found[1]) <= _MOST_SENT:
            return cls("all", int(found[1]))
        raise InvalidValue(
            "misfire", f"{text!r} is not skip, once or all:<most>, with a most of 1 to {_MOST_SENT:,}"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the tick script; times in Unix ms."""

    expected_ms: int
    next_ms: int | None
    #: The tick that gets a message; None: ticks are only passed over.
    sent_ms: int | None
    #: Ticks passed over with this step.
    passed: int
    #: How many ticks of this plan come before the one that is sent.
    position: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """The ticks of one schedule, and what it does about missed ones."""

    spec: Spec
    expires_ms: int | None
    misfire: Misfire
    #: A tick that is later than this counts as missed; one that is less late is sent in any case.
    grace_ms: int

    def plan(self, first_ms: int, now_ms: int) -> list[Step]:
        """Return what to do about the ticks from ``first_ms`` to now: at least one step.

        More ticks than one plan looks at: the steps end before them, and the next plan goes on.
        """
        ticks, upcoming = self._until(first_ms, now_ms)
        missed = sum(now_ms - tick > self.grace_ms for tick in ticks)
        dropped = max(0, missed - self.misfire.most)
        if upcoming is not None and now_ms - upcoming > self.grace_ms:
            # More are missed than these, and it is the latest that get messages: decide when those are seen.
            return [Step(first_ms, _at(ticks, dropped, upcoming), None, dropped, 0)]
        if dropped == len(ticks):
            return [Step(first_ms, upcoming, None, dropped, 0)]
        return [
            Step(
                first_ms if position == dropped else ticks[position],
                _at(ticks, position + 1, upcoming),
                ticks[position],
                dropped if position == dropped else 0,
                position,
            )
            for position in range(dropped, len(ticks))
        ]

    def _until(self, first_ms: int, now_ms: int) -> tuple[list[int], int | None]:
        """Return the ticks that have come, and the one after them."""
        ticks = [first_ms]
        while True:
            upcoming = next_tick(self.spec, ticks[-1], self.expires_ms)
            if upcoming is None or upcoming > now_ms or len(ticks) >= _MOST_LOOKED_AT:
                return ticks, upcoming
            ticks.append(upcoming)


def _at(ticks: list[int], position: int, upcoming: int | None) -> int | None:
    return ticks[position] if position < len(ticks) else upcoming
