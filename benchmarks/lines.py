"""The child's end of the talk with the runner: one JSON line per command, one per answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Talk:
    """Owns the real standard output; whatever libraries print goes to standard error instead."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, answer: dict[str, Any]) -> None:
        """Write one answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def tell_error(self, error: Exception) -> None:
        """Write an error; the runner decides what a failed measurement means."""
        inner = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        self.tell({"error": f"{type(inner).__name__}: {inner}"})

    async def serve(self, obey: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        """Answer commands until the runner closes our standard input."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                self.tell(await obey(json.loads(line)))
            except Exception as error:
                self.tell_error(error)
