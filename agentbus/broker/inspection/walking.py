"""Walking through whole streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from agentbus.broker.connection import Broker

_PAGE, _FIRST_PAGE = 500, 10
_BYTES = 1024 * 1024


async def walk_stream(broker: Broker, key: str, after: str | None = None) -> AsyncIterator[Sequence[Any]]:
    """Yield every entry of a stream, or those behind ``after``; pages follow the size of the bodies."""
    position, size = "-" if after is None else f"({after}", _FIRST_PAGE
    while True:
        entries = await broker.execute("XRANGE", key, position, "+", "COUNT", size)
        for entry in entries:
            yield entry
        if len(entries) < size:
            return
        position = f"({entries[-1][0].decode()}"
        average = sum(len(value) for entry in entries for value in entry[1] or ()) // size + 1
        size = max(1, min(_PAGE, _BYTES // average))
