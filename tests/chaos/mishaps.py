"""What befell the processes of a run and their broker, as an explanation for what was delivered again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.chaos.checker import BROKER_RESTART, LEASE_LOST, OWNER_DEATH, RETRY
from tests.chaos.history import Record

#: Why a message is delivered again.
_CAUSES = (OWNER_DEATH, LEASE_LOST, BROKER_RESTART, RETRY)


def causes_told(counts: Counter[str]) -> str:
    """Say how often each cause was found."""
    return "; ".join(f"{cause} {counts[cause]:,}" for cause in _CAUSES)


def broken_told(broken: Counter[str]) -> str:
    """Say how many processes were killed or frozen, and of which kind."""
    return f"{broken.total()} ({', '.join(f'{kind} {many}' for kind, many in broken.most_common())})"


class Mishaps:
    """When owners died, were frozen or lost their lease, and the broker was killed."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._killed_at: dict[int, float] = {}
        self._lost_at: defaultdict[int, list[float]] = defaultdict(list)
        self._broker_killed_at: list[float] = []
        self._lost_data: list[Record] = []
        for record in records:
            match record.event:
                case "killed":
                    self._killed_at[record.pid] = record.at
                case "fenced" | "frozen":
                    self._lost_at[record.pid].append(record.at)
                case "broker_killed":
                    self._broker_killed_at.append(record.at)
                case "data_lost":
                    self._lost_data.append(record)

    def lost_data(self, agent: str) -> list[str]:
        """Return what an agent's processes said of data that the broker had lost: none was."""
        told = [each for each in self._lost_data if each.agent == agent]
        return [f"{each.agent} at {each.channel}: {each.note}" for each in told]

    def between(self, begin: Record, until: float) -> str | None:
        """Return what befell the owner of a delivery, or its broker, before the next one began."""
        cause = self.of_owner(begin, until)
        if cause is None and any(begin.at <= at <= until for at in self._broker_killed_at):
            return BROKER_RESTART
        return cause

    def of_owner(self, begin: Record, until: float) -> str | None:
        """Return what befell the owner alone: while the broker is away a handler runs on."""
        if begin.at <= self._killed_at.get(begin.pid, -1.0) <= until:
            return OWNER_DEATH
        if any(begin.at <= at <= until for at in self._lost_at[begin.pid]):
            return LEASE_LOST
        return None
