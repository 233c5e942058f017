"""What a deletion did, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class ProjectRemoval:
    """What was removed at one address, in messages."""

    address: str
    #: Cancelled, and removed with what had ended.
    waiting: int = 0
    due: int = 0
    #: Dropped, and removed with what had ended.
    dead: int = 0
    #: Had ended before: processed, expired, resolved, …
    ended: int = 0
    #: Of a channel's log.
    logged: int = 0
    #: Recurring messages that will not be sent any more.
    schedules: int = 0
    #: Messages of which copies for bound agents were still owed, and are not made any more.
    owed: int = 0
    #: Somebody handles them; delete again when they have ended.
    left_in_flight: int = 0
    #: Cancelled, but they stand behind others in their lane; nobody gets them, and they go with them.
    left_waiting: int = 0

    @property
    def removed(self) -> int:
        """Messages that are gone from the address."""
        return self.waiting + self.due + self.dead + self.ended + self.logged - self.left_waiting

    @property
    def touched(self) -> bool:
        """Whether there was anything of the project."""
        return any(getattr(self, each.name) for each in fields(self) if each.name != "address")


@dataclass(frozen=True, slots=True)
class ProjectDeleted:
    """What a deletion did; of a dry run, what it would do."""

    project: str
    dry_run: bool
    by: str
    reason: str
    #: Addresses where there was anything.
    places: tuple[ProjectRemoval, ...]
    #: Addresses that were searched.
    searched: int
    #: Rows of the archive; None when it was not asked.
    archive: int | None
    #: Addresses that could not be searched to their end, and why: a key there has another type.
    refused: Mapping[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """The sums over all addresses."""
        return sums(self.places)

    @property
    def removed(self) -> int:
        """Messages that are gone from Redis."""
        return sum(place.removed for place in self.places)

    @property
    def complete(self) -> bool:
        """Whether everything was searched, and nothing is left that runs or stands behind others."""
        return not self.refused and not any(
            place.left_in_flight or place.left_waiting for place in self.places
        )

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON."""
        extra = {"counts": self.counts, "removed": self.removed, "complete": self.complete}
        return {**asdict(self), **extra}


def sums(places: Iterable[ProjectRemoval]) -> dict[str, int]:
    """Return the sum of each count."""
    found: Counter[str] = Counter()
    for place in places:
        found.update(
            {each.name: getattr(place, each.name) for each in fields(place) if each.name != "address"}
        )
    return dict(found)
