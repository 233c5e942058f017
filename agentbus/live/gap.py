"""Where a watcher missed something."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchGap:
    """Events are missing here."""

    #: How many; None when nobody knows, because the connection was lost for a while.
    missed: int | None
