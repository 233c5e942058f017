"""Role ``due``: delayed and retried messages reach the place they are read from when their time comes.

Every address that has something due is in the sorted set ``wake``, scored with the time of its next look.
Workers claim the addresses whose time has come; a claim is a later score, so nothing has to be cleaned up
after a worker that was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from agentbus.broker import keys
from agentbus.broker.inbox import Inbox
from agentbus.broker.sweeping import DueLook, Walker
from agentbus.broker.wake import Claim, Wake
from agentbus.errors import BrokerRefused, BrokerUnavailable
from agentbus.message.topics import is_inbox
from workers.inboxes import inbox_of, my_inboxes
from workers.role import Ground, Role

#: Addresses that one worker looks at in one round trip.
_WIDTH = 16
#: Messages of each of them that move in it: together they must not hold up the server.
_FIRST_STEP = 20
#: Further steps at one address before the others get their turn: its backlog must not delay them.
_STEPS = 5
#: Seconds between looks at the set while nothing is near: an announcement is found within this.
_POLL = 0.05
#: Until the next look at an address whose keys cannot be used, in ms.
_SPOILT, _SPOILT_MS = -1, 60_000


class _Done(NamedTuple):
    """One address that was looked at."""

    #: When to look again (server time in ms); None when nothing is due there any more, `_SPOILT` for later.
    next_ms: int | None
    #: How late the latest of its messages was, in ms.
    late_ms: int


class Due(Role):
    """Hands out what comes due, whoever serves the address, or nobody."""

    name: ClassVar[str] = "due"
    summary: ClassVar[str] = "delayed and retried messages reach their lane when their time comes"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        broker, settings = ground.bus.rooms.broker, ground.bus.settings
        self._wake = Wake(broker, keys.wake(settings.prefix))
        self._window_ms = ground.bus.rooms.grounds.key_window_ms
        self._promoter, self._walker = Walker(broker), Walker(broker)
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
        claims = {claim.address: claim for claim in found.claims}
        done = await self._promote([address for address in claims if is_inbox(address)])
        await self._settle(claims, done)

    async def _promote(self, addresses: Sequence[str]) -> dict[str, _Done]:
        inboxes = [inbox_of(self.ground, address) for address in addresses]
        steps = await self._promoter.promote(inboxes, self._window_ms, _FIRST_STEP)
        self._promoter.take_refusals()
        # Nearly all have one message, and are done with this round trip.
        ready = [(inbox, step) for inbox, step in steps if not step.more]
        done = {inbox.address: _Done(step.next_due_ms, step.late_ms) for inbox, step in ready}
        others = [inbox for inbox in inboxes if inbox.address not in done]
        results = await asyncio.gather(*[self._go_on(inbox) for inbox in others], return_exceptions=True)
        for inbox, result in zip(others, results, strict=True):
            # Raised when all have ended: none of them goes on by itself after the step.
            if isinstance(result, BaseException):
                raise result
            done[inbox.address] = result
        return done

    async def _go_on(self, inbox: Inbox) -> _Done:
        """Promote at an address that has more, or that refused; not for ever."""
        late = 0
        try:
            for _ in range(_STEPS):
                step = await inbox.promote(self._window_ms)
                late = max(late, step.late_ms)
                if not step.more:
                    return _Done(step.next_due_ms, late)
        except BrokerUnavailable:
            raise
        except BrokerRefused as error:
            # One spoilt address (a key of another type, no right to it) must not stop the others.
            self.refused(inbox.address, error)
            return _Done(_SPOILT, late)
        # Now, not when its oldest was due: it goes behind those that have waited longer for their turn.
        return _Done(step.server_ms, late)

    async def _settle(self, claims: Mapping[str, Claim], done: Mapping[str, _Done]) -> None:
        looks: list[tuple[Claim, int | None]] = []
        for address, claim in claims.items():
            if address not in done:
                # A channel, or no address at all: somebody's hand put it there.
                await self._wake.withdraw(address)
            elif done[address].next_ms == _SPOILT:
                looks.append((claim, claim.score + _SPOILT_MS))
            else:
                looks.append((claim, done[address].next_ms))
        await self._wake.settle_all(looks)
        self.report.late(max((each.late_ms for each in done.values()), default=0))

    # --- what was not announced ---

    async def sweep(self) -> None:
        """Put back lost announcements, and report bodies that nothing points at."""
        async for inboxes in my_inboxes(self.ground, self):
            looks = await self._walker.due(inboxes)
            await self._announce([look for look in looks if look.due_ms is not None])
            self._report_orphans({inbox.address for inbox in inboxes}, looks)
        for address, error in self._walker.take_refusals().items():
            self.refused(address, error)

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
