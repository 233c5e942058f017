"""The table of bindings as a publisher keeps it: never older than a second when it is used."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

from agentbus.bindings.routes import Routes, age_of, compiled, names_in
from agentbus.broker.bindings import BindingStore, RawTable
from agentbus.errors import BrokerError
from agentbus.events import Events

#: Seconds that a copy of the table may be used, counted from when it was asked for.
AGE_LIMIT = 1.0
#: Seconds after a change by which no publisher uses the table of before. Longer by as much as clocks differ
#: in speed, many times over.
HOLDS_AFTER = AGE_LIMIT * 1.01


class BindingTable:
    """One per process: what is bound, allowed and watched."""

    def __init__(self, store: BindingStore, events: Events) -> None:
        self._store = store
        self._events = events
        self._asked = -math.inf
        self._raw: RawTable | None = None
        self._server_ahead = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self.routes = Routes()

    @property
    def fresh(self) -> bool:
        """Whether the table may be used as it is."""
        return time.monotonic() - self._asked < AGE_LIMIT

    async def ensure(self) -> None:
        """Return when the table is one that was asked for no longer than a second before this call.

        Raises `BrokerError` when the broker does not tell it; then nothing may be sent.
        """
        oldest = time.monotonic() - AGE_LIMIT
        # Against the time of this call: where the answer takes longer than a second, nothing would ever do.
        while self._asked <= oldest:
            # One that has ended is no answer any more: awaiting it would not even let others run.
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = asyncio.create_task(self._refresh(), name="agentbus bindings")
                self._refreshing.add_done_callback(self._refreshed)
            # One answer for all who wait, and a caller that gives up does not take it from the others.
            await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        asked = time.monotonic()
        raw = await self._store.read()
        self._server_ahead = raw.server_ms - time.monotonic() * 1000
        if self._raw is None or _differ(raw, self._raw):
            self.routes = compiled(raw)
            for problem in self.routes.ignored:
                self._events.emit("binding_ignored", "", problem)
        self._raw, self._asked = raw, asked

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        if self._refreshing is task:
            self._refreshing = None
        if not task.cancelled():
            # Told to those who waited; all of them may have gone.
            task.exception()

    def server_ms(self) -> float:
        """Return the server's time as of now, to the accuracy of one answer."""
        return time.monotonic() * 1000 + self._server_ahead

    def age_ms(self, agent: str, pattern: str) -> float:
        """Return for how long a binding has been stored; 0 when it is not known."""
        return (
            0.0 if self._raw is None else age_of(self._raw.bindings.get((agent, pattern)), self.server_ms())
        )

    def consent(self, inbox: str, agent: str) -> frozenset[str]:
        """Return to whom ``agent`` allows copies of what ``inbox`` gets."""
        stored = None if self._raw is None else self._raw.consents.get((inbox, agent))
        return frozenset() if stored is None else names_in(stored) or frozenset()

    def outdate(self) -> None:
        """Ask again before the next use."""
        self._asked = -math.inf

    async def hold(self) -> None:
        """Wait until no publisher uses the table as it was before a change that the broker has confirmed."""
        self.outdate()
        await asyncio.sleep(HOLDS_AFTER)

    def begin_anew(self) -> None:
        """Forget everything: process or event loop are others now."""
        self._refreshing = None
        self.outdate()

    async def close(self) -> None:
        """Let a question that is under way come to its end."""
        if self._refreshing is not None:
            with contextlib.suppress(BrokerError):
                await asyncio.shield(self._refreshing)


def _differ(one: RawTable, other: RawTable) -> bool:
    return (one.bindings, one.consents, one.watched) != (other.bindings, other.consents, other.watched)
