"""Who is dead: a judgement from beat counters and one's own clock. Pure: no I/O, no server clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sighting:
    """A beat, and since when it has stood still as far as this process could see."""

    beat: str
    since: float


class Observations:
    """What one process has seen of the consumers of one address.

    A verdict needs a beat that stood still for a whole lease, during which this process could see and write
    itself. Whatever makes its view doubtful (a lost connection, a slow answer, its own beat not accepted)
    begins the wait anew: a server restart, a full server or a stopped one declares nobody dead.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease = lease_seconds
        self._seen: dict[str, Sighting] = {}
        self._last_look: float | None = None

    def look(self, now: float, beats: Mapping[str, str]) -> list[tuple[str, str]]:
        """Take one sound look; return (consumer, beat) of those who are dead."""
        if self._last_look is not None and now - self._last_look > self._lease / 2:
            # We stood still ourselves (a paused container, a sleeping laptop), and with us perhaps everybody.
            self._seen.clear()
        self._last_look = now
        seen: dict[str, Sighting] = {}
        dead: list[tuple[str, str]] = []
        for consumer, beat in beats.items():
            before = self._seen.get(consumer)
            if before is None or before.beat != beat:
                seen[consumer] = Sighting(beat, now)
                continue
            seen[consumer] = before
            if now - before.since >= self._lease:
                dead.append((consumer, beat))
        self._seen = seen
        return dead

    def doubt(self) -> None:
        """Forget everything: this process cannot vouch for what it saw."""
        self._seen.clear()
