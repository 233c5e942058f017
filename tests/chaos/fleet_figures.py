"""What runs of a whole fleet showed, and the figures that are made of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.checker import Verdict
from tests.chaos.figure import Figure, zero_of
from tests.chaos.judges import ENDS, Finding


@dataclass(slots=True)
class FleetResult:
    """What one or several runs showed together."""

    verdict: Verdict = field(default_factory=Verdict)
    ticks: Finding = field(default_factory=Finding)
    letters: Finding = field(default_factory=Finding)
    archive: Finding = field(default_factory=Finding)
    #: What was killed, stopped or frozen.
    broken: Counter[str] = field(default_factory=Counter)
    #: How often the books of an inbox were looked at; each time they closed, or the run would have failed.
    books_closed: int = 0
    seconds: float = 0.0
    books: list[str] = field(default_factory=list)

    def add(self, other: FleetResult) -> None:
        """Add another run."""
        self.verdict.add(other.verdict)
        self.ticks.add(other.ticks)
        self.letters.add(other.letters)
        self.archive.add(other.archive)
        self.broken += other.broken
        self.books_closed += other.books_closed
        self.seconds += other.seconds
        self.books += other.books


def fleet_figures_of(result: FleetResult) -> list[Figure]:
    """Return the figures of a fleet: messages, schedules (R7), dead letters (L5), archive (R6)."""
    return [_messages(result), _ticks(result), _letters(result), _archive(result)]


def _messages(result: FleetResult) -> Figure:
    verdict, faults = result.verdict, result.broken.total()
    figure = Figure("Fleet", "Publishers, agents, workers, people, broker and PostgreSQL, all of them killed")
    figure.problems, figure.seconds = verdict.problems, result.seconds
    figure.rows = {
        "messages, ticks included": f"{verdict.attempts:,}",
        "killed, stopped or frozen": f"{faults} ({_listed(result.broken)})",
        "stored; uncertain to their publisher; refused": (
            f"{verdict.stored:,}; {verdict.uncertain:,}; {verdict.refused:,}"
        ),
        "handled; dead letters; ended otherwise; still queued": (
            f"{verdict.handled:,}; {verdict.dead:,}; {verdict.ended:,}; {verdict.queued:,}"
        ),
        "lost": zero_of(len(verdict.lost), faults, "fault"),
        "unexpected": zero_of(len(verdict.unexpected), faults, "fault"),
        "deliveries beyond a message's first": _listed(verdict.duplicates) or "none",
        "without a cause": zero_of(len(verdict.unattributed), faults, "fault"),
        "not marked as redelivered": zero_of(len(verdict.unmarked), faults, "fault"),
        "looks at the books of an inbox, after each fault and at the end": f"{result.books_closed:,}",
        # A look that does not close ends the run with an error.
        "times they did not close": zero_of(0, result.books_closed, "look"),
        "at the end of the last run": "; ".join(result.books[-2:]),
    }
    return figure


def _ticks(result: FleetResult) -> Figure:
    counts, faults = result.ticks.counts, result.broken.total()
    figure = Figure("R7", "Recurring messages, in the runs of the fleet", problems=result.ticks.problems)
    figure.rows = {
        "ticks of schedules": f"{counts['ticks']:,}",
        "sent twice": zero_of(counts["doubled ticks"], faults, "fault"),
        "neither sent nor counted as missed": zero_of(counts["ticks lost"], faults, "fault"),
        "sent with another time than the tick's": zero_of(counts["ticks at a wrong time"], faults, "fault"),
        "counted as missed": f"{counts['missed ticks']:,} ({'; '.join(result.ticks.notes) or 'none'})",
        "messages on system.bus.status; of those for one tick twice": (
            f"{counts['status ticks']:,}; {counts['doubled status ticks']:,}"
        ),
    }
    return figure


def _letters(result: FleetResult) -> Figure:
    counts, faults = result.letters.counts, result.broken.total()
    figure = Figure("L5", "Dead letters, in the runs of the fleet", problems=result.letters.problems)
    figure.rows = {
        "dead letters": f"{counts['announced']:,}",
        "announced twice": zero_of(counts["letters announced twice"], faults, "fault"),
        "never announced": zero_of(counts["letters never announced"], faults, "fault"),
        "handed out again; resolved; dropped; still dead": "; ".join(
            f"{counts[name]:,}" for name in ("handed out again", "resolved", "dropped", "still dead")
        ),
        "retries that did not come back exactly once": zero_of(
            counts["retries that did not come back exactly once"], faults, "fault"
        ),
        "resolved or dropped, but run again": zero_of(
            counts["resolved or dropped, but run again"], faults, "fault"
        ),
        "with two fates": zero_of(counts["letters with two fates"], faults, "fault"),
        "answers to people that are not true": zero_of(counts["answers that are not true"], faults, "fault"),
    }
    return figure


def _archive(result: FleetResult) -> Figure:
    counts, faults = result.archive.counts, result.broken.total()
    figure = Figure("R6", "The archive, in the runs of the fleet", problems=result.archive.problems)
    figure.rows = {
        "rows": f"{counts['rows']:,}",
        "by outcome": ", ".join(f"{outcome} {counts[outcome]:,}" for outcome in ENDS if counts[outcome]),
        "compared entry by entry with the broker's records": f"{counts['compared entry by entry']:,}",
        "left the broker since": f"{counts['left the broker']:,}",
        "ended, but not archived": zero_of(
            counts["ended, but not archived"] + counts["stored, but neither archived nor dead"],
            faults,
            "fault",
        ),
        "archived, but not ended": zero_of(counts["archived, but not ended"], faults, "fault"),
        "archived twice": zero_of(counts["rows that are there twice"], faults, "fault"),
        "ended twice": zero_of(counts["messages that ended twice"], faults, "fault"),
        "with another outcome": zero_of(counts["archived with another outcome"], faults, "fault"),
    }
    return figure


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())
