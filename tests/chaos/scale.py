"""How much of everything: from the quick look of a developer to a night."""

from __future__ import annotations

from dataclasses import dataclass

#: Messages of one mixed run; more are split into several runs, each on a broker of its own.
EPISODE = 50_000


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of the runs."""

    messages: int = 200_000
    kills: int = 160
    ambiguous: int = 100_000
    deaths: int = 100
    times_lease: int = 100
    settlements: int = 10_000
    poison: int = 200
    healthy: int = 20_000

    @classmethod
    def of(cls, messages: int | None, kills: int | None) -> Scale:
        """Return the long scale; the poison grows with the messages: a thousand of them per million."""
        wanted = messages or cls().messages
        return cls(
            messages=wanted,
            kills=kills or max(1, wanted * cls().kills // cls().messages),
            poison=max(1, wanted // 1_000),
            healthy=max(100, wanted // 10),
        )


#: A minute in all: does everything still run?
QUICK = Scale(6_000, 10, 2_000, 4, 3, 200, 2, 200)
