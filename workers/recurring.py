"""Recurring messages: each tick once, however many of these run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentbus.broker.keys import ticking
from agentbus.broker.schedules import KEEP_ENDED_MS, SELF_TIMED, ScheduleStore, StoredSchedule, Tick
from agentbus.broker.wake import Claim, Wake
from agentbus.errors import AgentBusError, BrokerUnavailable, InvalidValue
from agentbus.message.topics import parse_address
from agentbus.schedules.definition import Definition
from agentbus.schedules.misfire import Step
from workers.role import Ground, Role, logger
from workers.walk import my_addresses

#: Addresses that one claim takes, and schedules of one address that one look takes.
_MOST_CLAIMED, _MOST_LOOKED_AT = 20, 100
#: Seconds between looks when nothing is known to come; also how long a new schedule can go unnoticed.
_LONGEST_PAUSE = 0.25
#: Until a tick that its address does not take is tried again.
_RETRY_MS = 1_000
#: Until a look at what cannot be read: somebody's hand wrote it, and has to write again.
_BROKEN_MS = 60_000
#: Seconds between passes over all addresses for those that nobody announced.
_SWEEP_INTERVAL = 30.0


class Recurring(Role):
    """Claims addresses whose ticks have come, and lets each tick happen by one script.

    The claim only saves work: two workers that look at one address at once send each tick once all the same.
    """

    name = "recurring"
    summary = "send what recurs, once for each tick"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        settings, broker = ground.bus.settings, ground.bus.rooms.broker
        self._store = ScheduleStore(broker, settings.prefix, settings.publisher.address_limit)
        self._ticking = Wake(broker, ticking(settings.prefix))

    async def run(self) -> None:
        """Send until the process stops; walk over all addresses now and then."""
        sweep = asyncio.create_task(self.every(_SWEEP_INTERVAL, self._sweep), name="agentbus recurring sweep")
        look = asyncio.create_task(self._look_until_stopped(), name="agentbus recurring look")
        tasks = (look, sweep)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- looking ---

    async def _look_until_stopped(self) -> None:
        await self.every(0.0, self._look)

    async def _look(self) -> None:
        claims = await self._ticking.claim(_MOST_CLAIMED)
        answers = await asyncio.gather(*map(self._serve, claims.claims), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if len(claims.claims) < _MOST_CLAIMED:
            await self.ground.pause(min(_LONGEST_PAUSE, claims.pause))

    async def _serve(self, claim: Claim) -> None:
        if not _is_ours(claim.address):
            await self._ticking.withdraw(claim.address)
            return
        try:
            next_ms = await self._look_at(claim.address)
        except BrokerUnavailable:
            raise
        except AgentBusError as error:
            # One address with a key of the wrong type must not keep the others waiting.
            self._note(claim.address, error)
            next_ms = claim.score + _BROKEN_MS
        await self._ticking.settle(claim, next_ms)

    async def _look_at(self, address: str) -> int | None:
        """Let every tick of an address happen that has come; returns when to look again (ms)."""
        due = await self._store.due(address, _MOST_LOOKED_AT)
        if due.schedules:
            await self._store.note_address(address)
        looks = await asyncio.gather(*(self._advance(stored, due.server_ms) for stored in due.schedules))
        return _earliest((due.next_ms, *looks))

    async def _advance(self, stored: StoredSchedule, now_ms: int) -> int | None:
        """Let the ticks of one schedule happen; returns when to look at it again (ms)."""
        assert stored.tick_ms is not None
        if stored.state.ended_at is not None or not stored.definition:
            await self._store.cancel(stored.address, stored.id, stored.tick_ms)
            return None
        try:
            definition = Definition.from_json(stored.definition)
            steps = definition.calendar().plan(stored.tick_ms, now_ms)
        except InvalidValue as error:
            self._note(f"{stored.address}:{stored.id}", error)
            return now_ms + _BROKEN_MS
        return await self._carry_out(stored, definition, steps, now_ms)

    async def _carry_out(
        self, stored: StoredSchedule, definition: Definition, steps: list[Step], now_ms: int
    ) -> int | None:
        number = stored.state.sent + stored.state.missed + 1
        next_ms: int | None = None
        for step in steps:
            ticked = await self._store.tick(
                stored.address, stored.id, _tick(stored, definition, step, number + step.position)
            )
            if ticked.answer in ("full", "refused"):
                problem = ticked.detail or f"{stored.address} takes no more messages now; it is tried again"
                self._note(f"{stored.address}:{stored.id}", AgentBusError(problem))
                return now_ms + _RETRY_MS
            if ticked.answer == "early":
                # The server's clock was set back.
                return step.expected_ms
            if ticked.answer == "moved":
                # Somebody else was faster, or paused or cancelled it.
                return int(ticked.detail) if ticked.detail else None
            self.report.lag_ms = now_ms - step.expected_ms
            next_ms = step.next_ms
        return next_ms if next_ms is not None else now_ms + KEEP_ENDED_MS

    async def _sweep(self) -> None:
        """Announce every address that has ticks: announcements can get lost, and the set with its server."""
        async for names in my_addresses(self.ground, self.name):
            await self._ticking.announce_all(await self._store.first_ticks(list(filter(_is_ours, names))))

    def _note(self, where: str, error: Exception) -> None:
        logger.warning("%s: %s: %s", self.name, where, error, extra={"role": self.name})
        self.report.failed(error)


def _is_ours(address: str) -> bool:
    try:
        return parse_address(address) == address and address != SELF_TIMED
    except InvalidValue:
        return False


def _tick(stored: StoredSchedule, definition: Definition, step: Step, number: int) -> Tick:
    message = b""
    if step.sent_ms is not None:
        message = definition.message_at(f"{stored.address}:{stored.id}", step.sent_ms, number)
    return Tick(
        expected_ms=step.expected_ms,
        next_ms=step.next_ms,
        message=message,
        lane=definition.lane,
        ttl_ms=definition.ttl_ms,
        passed=step.passed,
    )


def _earliest(moments: Iterable[int | None]) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
