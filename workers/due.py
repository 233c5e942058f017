"""Role ``due``: delayed and retried messages reach the place they are read from when their time comes.

Every address that has something due is in the sorted set ``wake``, scored with the time of its next look.
Workers claim the addresses whose time has come; a claim is a later score, so nothing has to be cleaned up
after a worker that was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from agentbus.broker import keys
from agentbus.broker.inbox import PROMOTE_STEP
from agentbus.broker.sweeping import DueLook, Walker
from agentbus.broker.wake import Claim, Wake
from agentbus.errors import BrokerRefused, BrokerUnavailable
from workers.inboxes import INBOX_PREFIX, inbox_of, my_inboxes
from workers.role import Ground, Role, logger

#: Addresses that one worker looks at side by side.
_WIDTH = 8
#: Steps at one address before the others get their turn: a long backlog must not delay their messages.
_STEPS = 5
#: Seconds between looks at the set while nothing is near: an announcement is found within this.
_POLL = 0.05
#: Until the next look at an address whose keys cannot be used, in ms.
_SPOILT_MS = 60_000


class Due(Role):
    """Hands out what comes due, whoever serves the address, or nobody."""

    name: ClassVar[str] = "due"
    summary: ClassVar[str] = "delayed and retried messages reach their lane when their time comes"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        broker, settings = ground.bus.rooms.broker, ground.bus.settings
        self._wake = Wake(broker, keys.wake(settings.prefix))
        self._window_ms = ground.bus.rooms.grounds.key_window_ms
        self._walker = Walker(broker)
        #: Address to the number of orphaned bodies that was reported of it.
        self._orphans: dict[str, int] = {}

    async def run(self) -> None:
        """Claim and promote; beside it, walk slowly over all inboxes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.every(0.0, self.look), name="agentbus due looks")
            group.create_task(self.every(self.ground.settings.sweep, self.sweep), name="agentbus due sweep")

    # --- what comes due ---

    async def look(self) -> None:
        """Claim what is due and promote it; without any, wait until something may be."""
        found = await self._wake.claim(_WIDTH)
        if not found.claims:
            await self.ground.pause(min(_POLL, max(0.001, found.pause)))
            return
        late = await asyncio.gather(*[self._serve(claim) for claim in found.claims], return_exceptions=True)
        for result in late:
            # Raised when all have ended: none of them goes on by itself after the step.
            if isinstance(result, BaseException):
                raise result
        self.report.lag_ms = max(result for result in late if isinstance(result, int))

    async def _serve(self, claim: Claim) -> int:
        """Promote at one address and settle the claim; returns how late the latest message was, in ms."""
        if not claim.address.startswith(INBOX_PREFIX):
            await self._wake.withdraw(claim.address)
            return 0
        try:
            next_ms, late = await self._promote(claim.address)
        except BrokerUnavailable:
            raise
        except BrokerRefused as error:
            # One spoilt address (a key of another type, no right to it) must not stop the others.
            logger.warning("%s: %s: %s", self.name, claim.address, error, extra={"role": self.name})
            self.report.failed(error)
            next_ms, late = claim.score + _SPOILT_MS, 0
        await self._wake.settle(claim, next_ms)
        return late

    async def _promote(self, address: str) -> tuple[int | None, int]:
        """Promote some steps; returns when to look again (ms) and how late the latest message was (ms)."""
        inbox, late = inbox_of(self.ground, address), 0
        for _ in range(_STEPS):
            promoted = await inbox.promote(self._window_ms, PROMOTE_STEP)
            late = max(late, promoted.late_ms)
            if not promoted.more:
                return promoted.next_due_ms, late
        # Now, not when its oldest was due: it goes behind those that have waited longer for their turn.
        return promoted.server_ms, late

    # --- what was not announced ---

    async def sweep(self) -> None:
        """Put back lost announcements, and report bodies that nothing points at."""
        async for inboxes in my_inboxes(self.ground, self):
            looks = await self._walker.due(inboxes)
            await self._announce([look for look in looks if look.due_ms is not None])
            self._report_orphans({inbox.address for inbox in inboxes}, looks)
        for address, error in self._walker.take_refusals().items():
            logger.warning("%s: %s: %s", self.name, address, error, extra={"role": self.name})
            self.report.failed(error)

    async def _announce(self, looks: Sequence[DueLook]) -> None:
        if not looks:
            return
        noted = await self._wake.scores([look.inbox.address for look in looks])
        await self._wake.announce_all(
            (look.inbox.address, look.due_ms)
            for look, score in zip(looks, noted, strict=True)
            # A later score is a claim, or that of a claimer that died before the server's clock went back.
            if look.due_ms is not None and (score is None or score > look.due_ms)
        )

    def _report_orphans(self, walked: set[str], looks: Sequence[DueLook]) -> None:
        """Report what changed: the same orphans are no news at each walk."""
        found = {look.inbox.address: look.orphans for look in looks if look.orphans}
        for address, count in found.items():
            if count > self._orphans.get(address, 0):
                self.ground.bus.events.emit(
                    "orphaned",
                    address,
                    f"{count} delayed messages that nothing points at: somebody removed them from due",
                    count=count,
                )
        self._orphans = {name: old for name, old in self._orphans.items() if name not in walked} | found
