"""What Redis keeps of a message: the values that the readers of history share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A place in the order of history: milliseconds and sequence of the record that tells of the end (of the
#: entry, in a channel), and which message of that record.
Point = tuple[int, int, int]

#: After everything one record tells of.
LAST_OF_RECORD = 2**31


@dataclass(frozen=True, slots=True)
class Kept:
    """One message as it stands in Redis."""

    #: Where it is in the order of history; for one that has not ended, in the order of its stage.
    point: Point
    #: ``waiting``, ``in_flight``, ``due``, ``dead``, ``ended``, or ``logged`` (in a channel).
    status: str
    #: The lane's priority, ``returned``, ``due``, ``dead``, ``resolved``, ``ended`` or ``log``.
    stream: str
    entry_id: str
    #: Server time in ms: ended, dead or logged at, waiting since, due at; held since.
    at_ms: int
    #: The envelope as it was stored; None when it was removed, b"" when the entry holds none.
    text: bytes | None
    outcome: str = ""
    consumer: str = ""
    detail: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    #: Attempts begun, where they were counted; None: as the state says.
    attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A few messages that follow each other."""

    kept: Sequence[Kept]
    #: Reading goes on after this point; None: there is nothing more this way.
    resume: Point | None


@dataclass(frozen=True, slots=True)
class Window:
    """Where to read: between two points that do not belong to it."""

    #: None: from the beginning.
    above: Point | None
    #: None: up to now.
    below: Point | None
    newest_first: bool

    def after(self, point: Point | None) -> Window:
        """Return what is left of it once everything up to ``point`` was read."""
        if point is None:
            return self
        if self.newest_first:
            below = point if self.below is None else min(point, self.below)
            return Window(self.above, below, True)
        above = point if self.above is None else max(point, self.above)
        return Window(above, self.below, False)

    def holds(self, point: Point) -> bool:
        """Whether a point is in it."""
        return (self.above is None or point > self.above) and (self.below is None or point < self.below)

    def capped(self, below: Point) -> Window:
        """Return the part of it that lies below a point."""
        return Window(self.above, below if self.below is None else min(self.below, below), self.newest_first)
