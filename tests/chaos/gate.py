"""How much of the work may be published by now: one number in a file that all processes map."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path


class Gate:
    """The share of all messages that is released, from 0 to 1."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def share(self) -> float:
        """The share released so far."""
        try:
            found: tuple[float] = struct.unpack("d", self._path.read_bytes())
        except FileNotFoundError:
            return 0.0
        return found[0]

    def open(self, share: float) -> None:
        """Release up to ``share``."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(struct.pack("d", share))
        fresh.replace(self._path)

    async def wait(self, share: float) -> float:
        """Wait until more than ``share`` is released, and return how much."""
        while (released := self.share) <= share:
            await asyncio.sleep(0.02)
        return released
