"""How an agent reads a channel: where its cursor begins, and how much at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from agentbus.errors import ConfigurationError, InvalidValue
from agentbus.message.durations import instant_milliseconds

#: ``now``, ``beginning``, a time, or an entry id of the log.
Start = str | datetime
_ENTRY = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
#: The largest number behind the time in an entry id.
_LAST_OF_MS = 18446744073709551615
_MOST_CONCURRENCY = 10_000


@dataclass(frozen=True, slots=True)
class Following:
    """One channel that an agent reads."""

    address: str
    #: ``$``, ``0`` or an entry id, as the server takes it; None: nobody has said, which means ``$``.
    asked_start: str | None = None
    concurrency: int = 1

    @property
    def start(self) -> str:
        """Where a new cursor begins."""
        return self.asked_start or "$"

    @property
    def in_order(self) -> bool:
        """Whether messages are handled one after the other, by one consumer of the agent at a time."""
        return self.concurrency == 1

    @classmethod
    def joined(
        cls, before: Following | None, address: str, start: str | None, concurrency: int | None
    ) -> Following:
        """Return how the channel is read with a further handler; all handlers share one cursor."""
        whole = isinstance(concurrency, int) and not isinstance(concurrency, bool)
        if concurrency is not None and not (whole and 1 <= concurrency <= _MOST_CONCURRENCY):
            raise InvalidValue("concurrency", f"must be from 1 to {_MOST_CONCURRENCY}, not {concurrency!r}")
        if before is None:
            return cls(address, start, concurrency or 1)
        if start is not None and before.asked_start not in (None, start):
            raise ConfigurationError(
                f"start: another handler reads {address} from {before.asked_start}; an agent has one cursor"
            )
        return cls(address, start or before.asked_start, max(before.concurrency, concurrency or 1))


def cursor_start(start: Start | None) -> str | None:
    """Return where a new cursor begins as the server takes it; raises `InvalidValue`."""
    if start is None:
        return None
    if start == "now":
        return "$"
    if start == "beginning":
        return "0"
    if isinstance(start, str) and _ENTRY.fullmatch(start):
        return start
    try:
        instant = instant_milliseconds(start, "start")
    except InvalidValue as error:
        raise InvalidValue(
            "start", f"{start!r} is not now, beginning, a time such as 2026-12-31T08:00:00Z, or an entry id"
        ) from error
    # Messages of that very millisecond are read.
    return f"{max(0, instant - 1)}-{_LAST_OF_MS}"
