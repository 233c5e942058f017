"""Messages that have crashed an owner: one at a time in a process."""

from __future__ import annotations

import time


class SuspectGate:
    """One suspect at a time per process: a message that has crashed an owner runs alone among its like."""

    def __init__(self) -> None:
        self.running = False
        self._since = 0.0

    def enter(self) -> None:
        """A suspect begins."""
        self.running = True
        self._since = time.monotonic()

    def taken_for(self, seconds: float) -> bool:
        """Whether one suspect has been running for longer than this: the others need not wait here."""
        return self.running and time.monotonic() - self._since > seconds
