"""Who reads the log of a channel learns here that there is something new: one parked read a process.

A plain XREAD belongs to no group: it takes nothing from anybody, so it may be dropped at any moment, and one
of them serves every agent of the process. What is new is then fetched by each agent's own cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from agentbus.broker.connection import Broker, Link
from agentbus.errors import BrokerError
from agentbus.message.backoff import Backoff

_PARK_MS = 2_000


class LogWatch:
    """Sets the events of readers when their logs have grown; late or too often, but never not at all."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._link: Link | None = None
        self._followers: dict[str, set[asyncio.Event]] = {}
        #: Log to the last entry that its followers were told of.
        self._seen: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def follow(self, log: str, grown: asyncio.Event) -> None:
        """Set ``grown`` each time the log has grown, from now on; set it once now."""
        grown.set()
        if log not in self._followers:
            # One more that waits for a log that is read already changes nothing: a thousand agents would
            # begin the read a thousand times.
            self._changed.set()
        self._followers.setdefault(log, set()).add(grown)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="agentbus log watch")

    def unfollow(self, log: str, grown: asyncio.Event) -> None:
        """Tell it no more."""
        followers = self._followers.get(log, set())
        followers.discard(grown)
        if not followers:
            self._followers.pop(log, None)
            self._seen.pop(log, None)
            self._changed.set()

    async def close(self) -> None:
        """End the parked read."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._link is not None:
            await self._link.close()

    async def _run(self) -> None:
        self._link = self._broker.open_link()
        backoff = Backoff()
        while True:
            try:
                await self._changed_or(self._look())
                backoff.reset()
            except BrokerError:
                await self._link.close()
                await asyncio.sleep(backoff.next_pause())
                # What came meanwhile is looked for by everybody.
                self._seen.clear()

    async def _changed_or(self, look: Any) -> None:
        """Look, but no longer than until somebody follows another log."""
        self._changed.clear()
        looking = asyncio.ensure_future(look)
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((looking, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            if not looking.done():
                looking.cancel()
                assert self._link is not None
                # Its reply may still be on the way: nobody else may read it as theirs.
                await self._link.close()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    async def _look(self) -> None:
        logs = list(self._followers)
        if not logs:
            await asyncio.Event().wait()
        await self._catch_up([log for log in logs if log not in self._seen])
        assert self._link is not None
        ids = [self._seen.get(log, b"0-0") for log in logs]
        reply = await self._link.execute(
            "XREAD", "COUNT", 1, "BLOCK", _PARK_MS, "STREAMS", *logs, *ids, timeout=_PARK_MS / 1000 + 2.0
        )
        grown = [log.decode() for log, _ in reply or ()]
        self._tell(grown)
        await self._catch_up(grown)

    async def _catch_up(self, logs: Sequence[str]) -> None:
        """Note the last entry of some logs, and tell their followers: it may have come since they looked."""
        if not logs:
            return
        assert self._link is not None
        replies = await self._link.pipeline([("XREVRANGE", log, "+", "-", "COUNT", 1) for log in logs])
        for log, entries in zip(logs, replies, strict=True):
            # A key of another type is reported by whoever reads it.
            last = entries[0][0] if isinstance(entries, list) and entries else b"0-0"
            if log in self._followers and last != self._seen.get(log):
                self._seen[log] = last
                self._tell([log])

    def _tell(self, logs: Sequence[str]) -> None:
        for log in logs:
            for grown in self._followers.get(log, ()):
                grown.set()
