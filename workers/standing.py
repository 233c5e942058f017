"""Whether the broker takes what this process writes: who cannot even beat must not call others dead."""

from __future__ import annotations


class Standing:
    """When this process last beat with success."""

    def __init__(self) -> None:
        #: When the last answered beat was sent, on `agentbus.receive.lease.clock`; None before the first.
        self.beat_at: float | None = None

    def beat_answered(self, sent_at: float) -> None:
        """The beat sent at ``sent_at`` was accepted."""
        self.beat_at = sent_at
