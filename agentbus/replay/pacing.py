"""How fast a replay goes: at a rate, and no further ahead of whoever handles it than a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentbus.errors import InvalidValue

#: Unsettled messages in the inbox beyond which a replay without a rate waits.
MOST_UNSETTLED = 1_000
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


class Pace:
    """Lets one message after the other go."""

    def __init__(
        self,
        rate: float | None,
        most: int,
        unsettled: Callable[[], Awaitable[int]],
        paused: Callable[[], None],
    ) -> None:
        """The inbox may hold ``most`` unsettled messages; ``paused`` is told of each pause for them."""
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise InvalidValue("rate", f"must be messages a second, more than 0, not {rate!r}")
        self._gap = 0.0 if rate is None else 1 / rate
        self._most = most
        self._unsettled = unsettled
        self._paused = paused
        self._room = 0
        self._next_at = 0.0

    async def ready(self) -> None:
        """Return when the next message may go."""
        await self._keep_rate()
        pause = _SHORTEST_PAUSE
        while self._room <= 0:
            self._room = self._most - await self._unsettled()
            if self._room <= 0:
                self._paused()
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
        self._room -= 1

    async def _keep_rate(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at + self._gap, now)
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
