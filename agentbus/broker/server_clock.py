"""Jumps of the server's clock, seen from a clock of one's own that does not jump. Pure: no I/O."""

from __future__ import annotations

#: Seconds below which a difference is no jump: clocks drift, and are corrected in small steps.
_LEAST = 2.0


class ServerClock:
    """Compares what the server says with a monotonic clock."""

    def __init__(self) -> None:
        #: The least and the most that the server's clock can be ahead of ours, in seconds.
        self._ahead: tuple[float, float] | None = None

    def saw(self, server_ms: int, sent_at: float, answered_at: float) -> float | None:
        """Take one answer; return by how many seconds the server's clock has jumped since the last one.

        ``sent_at`` and ``answered_at`` are on a monotonic clock. None when it has not jumped, as far as can
        be told: an answer that was long under way says little.
        """
        before, self._ahead = self._ahead, (server_ms / 1000 - answered_at, server_ms / 1000 - sent_at)
        if before is None:
            return None
        low, high = self._ahead
        forward, back = low - before[1], high - before[0]
        if forward >= _LEAST:
            return forward
        return back if back <= -_LEAST else None


def jump_told(seconds: float) -> str:
    """Return for people what a jump means."""
    if seconds > 0:
        return f"the server's clock jumped {seconds:.0f} s ahead: what was due in that time came due at once"
    return f"the server's clock jumped {-seconds:.0f} s back: what is delayed comes due that much later"
