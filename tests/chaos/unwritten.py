"""What a kill may take from a server that syncs every second: its last steps, and nothing before them.

While a sync is under way such a server holds its writes back, for two seconds at most, and answers all the
same. So a confirmed message may be lost, but only together with everything that was stored after it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence

from tests.chaos.history import Record

#: Seconds for which a server holds writes back, and those in which a killed one ends.
HELD_BACK = 3.0
#: Seconds after a kill in which agents still begin what was handed out before it.
HANDED_OUT = 1.0


def lost_unwritten(records: Sequence[Record], lost: Collection[str]) -> set[str]:
    """Return those of the ``lost`` that a kill of the server took before they were written.

    Such a loss is a tail: where a message that was stored later came through the same kill, the lost one
    was not among the last steps, and something else took it.
    """
    return _Times(records).unwritten(lost) if lost else set()


class _Times:
    """When each message was first tried, first stored and first begun, and when the server was killed."""

    def __init__(self, records: Sequence[Record]) -> None:
        first: dict[str, dict[str, float]] = {"attempt": {}, "stored": {}, "begin": {}}
        for record in records:
            if record.key and record.event in first:
                first[record.event].setdefault(record.key, record.at)
        self._attempt, self._stored, self._begin = first["attempt"], first["stored"], first["begin"]
        self._kills = sorted(record.at for record in records if record.event == "broker_killed")

    def unwritten(self, lost: Collection[str]) -> set[str]:
        """Return those of the ``lost`` that went with the last steps before a kill."""
        newest = {kill: self._newest_survivor(kill) for kill in self._kills}
        return {key for key in lost if any(newest[kill] <= self._stored[key] for kill in self._kills_of(key))}

    def _kills_of(self, key: str) -> Iterator[float]:
        """Yield the kills that can have taken a message: during its publish, and the next one soon after."""
        stored = self._stored[key]
        after = bisect_left(self._kills, stored)
        yield from self._kills[bisect_left(self._kills, self._attempt[key]) : after]
        if after < len(self._kills) and self._kills[after] - stored <= HELD_BACK:
            yield self._kills[after]

    def _newest_survivor(self, kill: float) -> float:
        """Return when the last message was tried that was stored before a kill and came through it."""
        return max(
            (
                self._attempt[key]
                for key, stored in self._stored.items()
                if stored <= kill and self._begin.get(key, 0.0) > kill + HANDED_OUT and key in self._attempt
            ),
            default=0.0,
        )
