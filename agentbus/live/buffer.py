"""What a watcher has heard and its reader has not taken: bounded, and honest about what it lost."""

from __future__ import annotations

from collections import deque

from agentbus.live.gap import WatchGap
from agentbus.message.message import Message


class WatchBuffer:
    """Keeps the newest; what had to go is told in its place, which is before all that is left."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Message | WatchGap] = deque()
        self._gone: WatchGap | None = None

    def __bool__(self) -> bool:
        return self._gone is not None or bool(self._items)

    def put(self, item: Message | WatchGap) -> None:
        """Add what was heard last; the oldest goes when there is no room."""
        self._items.append(item)
        if len(self._items) > self._limit:
            self._gone = _together(self._gone, self._items.popleft())

    def take(self) -> Message | WatchGap:
        """Return what comes next; there must be something."""
        if self._gone is not None:
            gap, self._gone = self._gone, None
            return gap
        return self._items.popleft()


def _together(gap: WatchGap | None, item: Message | WatchGap) -> WatchGap:
    """Return the gap that a lost item makes of the one before it."""
    before = 0 if gap is None else gap.missed
    lost = item.missed if isinstance(item, WatchGap) else 1
    return WatchGap(None if before is None or lost is None else before + lost)
