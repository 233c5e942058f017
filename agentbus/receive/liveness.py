"""Who is dead: a judgement from beat counters and one's own clock. Pure: no I/O, no server clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


class Vigil:
    """Since when one process has been able to see and to write, without a break.

    Whatever makes its view doubtful (a lost connection, a slow answer, its own beat not accepted, standing
    still itself) begins it anew: a server restart, a full server or a stopped one declares nobody dead.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._longest_pause = lease_seconds / 2
        self._last_tick: float | None = None
        #: Infinite while nobody can be judged.
        self.since = math.inf

    def tick(self, now: float) -> None:
        """This process runs. Call it more often than every half a lease, whatever it looks at."""
        last, self._last_tick = self._last_tick, now
        if last is not None and now - last > self._longest_pause:
            # We stood still ourselves (a paused container, a sleeping laptop), and with us perhaps everybody.
            self.doubt()

    def doubt(self) -> None:
        """This process cannot vouch for what it saw until now, nor until its next sound look."""
        self.since = math.inf

    def saw(self, now: float) -> None:
        """A sound look: the broker is there, and takes what this process writes."""
        self.since = min(self.since, now)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A beat, and since when it has stood still as far as this process could see."""

    beat: str
    since: float


class Observations:
    """What one process has seen of the consumers of one address.

    A verdict needs a beat that stood still for a whole lease, all of it within one unbroken `Vigil`. It is
    the longer of the observer's own lease and of the one that the consumer gave: an agent whose handlers stop
    its beats for long has said so, and others do not know its settings.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease = lease_seconds
        self._seen: dict[str, Sighting] = {}

    def look(self, now: float, beats: Mapping[str, str], vigil_since: float) -> list[tuple[str, str]]:
        """Take one sound look; return (consumer, beat) of those who are dead."""
        seen: dict[str, Sighting] = {}
        dead: list[tuple[str, str]] = []
        for consumer, beat in beats.items():
            before = self._seen.get(consumer)
            if before is None or before.beat != beat:
                seen[consumer] = Sighting(beat, now)
                continue
            seen[consumer] = before
            if now - max(before.since, vigil_since) >= max(self._lease, _promised(beat)):
                dead.append((consumer, beat))
        self._seen = seen
        return dead

    def forget(self) -> None:
        """Forget who was seen: each is watched for a whole lease again."""
        self._seen = {}


def _promised(beat: str) -> float:
    """Return the lease in seconds that a beat carries; 0 when it carries none."""
    parts = beat.split(" ")
    return int(parts[3]) / 1000 if len(parts) == 4 and parts[3].isdigit() else 0.0
