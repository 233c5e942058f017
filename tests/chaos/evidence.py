"""What is found when a fleet has come to rest: in the archive, the broker and the books. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the archive."""

    address: str
    stream: str
    entry: str
    outcome: str
    message_id: str
    #: What the sender wrote.
    content: Mapping[str, Any]
    #: The dead letter it was when it ended.
    letter: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it was in the broker: no two messages ended there."""
        return (self.address, self.stream, self.entry)

    @property
    def key(self) -> str:
        """The message's own name; empty for what nobody of the run wrote."""
        return str(self.content.get("key", "")) if isinstance(self.content, Mapping) else ""


@dataclass(frozen=True, slots=True)
class Letters:
    """The dead letters of one inbox, by their ids."""

    #: In the order of their notices: a letter announced twice is here twice.
    announced: tuple[tuple[str, str], ...] = ()
    #: Letter to message id, of those that still wait for a person.
    dead: Mapping[str, str] = field(default_factory=dict)
    #: As the records say, one for each time; None where retention has taken records.
    redriven: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ticks:
    """One schedule, paused, and the messages it sent."""

    id: str
    created_ms: int
    interval_ms: int
    sent: int
    missed: int
    #: (number, time in ms) of each message found, whatever became of it.
    found: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One address."""

    address: str
    #: The ledger; of a channel it counts other things.
    ledger: Mapping[str, int]
    #: (stream, entry) to the outcomes that records name for it; of a channel the entries of its log. None
    #: where retention has taken records.
    ended: Mapping[tuple[str, str], frozenset[str]] | None
    letters: Letters = Letters()
    #: Ended messages that the broker still holds.
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything."""

    rows: tuple[Row, ...]
    places: tuple[Place, ...]
    ticks: tuple[Ticks, ...] = ()
    #: ``tick_ms`` of every message on ``system.bus.status``.
    status: tuple[int, ...] = ()

    def rows_of(self, address: str) -> list[Row]:
        """Return the rows of one address."""
        return [row for row in self.rows if row.address == address]

    def keys(self, outcomes: Iterable[str]) -> set[str]:
        """Return the names of messages that ended so."""
        wanted = set(outcomes)
        return {row.key for row in self.rows if row.outcome in wanted and row.key}
