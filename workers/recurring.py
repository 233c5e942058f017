"""Recurring messages: each tick once, however many of these run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from agentbus.broker.keys import ticking
from agentbus.broker.schedules import KEEP_ENDED_MS, SELF_TIMED, ScheduleStore, StoredSchedule, Tick
from agentbus.broker.wake import Claim, Wake
from agentbus.errors import BrokerError, BrokerOutOfMemory, BrokerRefused, BrokerUnavailable, InvalidValue
from agentbus.message.copies import Arrival
from agentbus.message.owed import DebtNotes
from agentbus.message.policy import PRIORITIES
from agentbus.message.topics import parse_address
from agentbus.schedules.definition import Definition
from agentbus.schedules.misfire import Step
from workers.role import Ground, Role
from workers.walk import my_addresses

#: Addresses that one claim takes, and schedules of one address that one look takes.
_MOST_CLAIMED, _MOST_LOOKED_AT = 20, 100
#: Seconds between looks when nothing is known to come; also how long a new schedule can go unnoticed.
_LONGEST_PAUSE = 0.25
#: Until a tick that its address does not take is tried again.
_RETRY_MS = 1_000
#: Until a look at what cannot be read: somebody's hand wrote it, and has to write again.
_BROKEN_MS = 60_000
#: Seconds for copying a message that was sent to those who are bound to its topic.
_COPYING_PATIENCE = 30.0
#: Seconds between passes over all addresses for those that nobody announced.
_SWEEP_INTERVAL = 30.0


Result = TypeVar("Result")


class _Look(NamedTuple):
    """What came of a look at one schedule."""

    #: When to look again.
    next_ms: int | None
    #: Whether its tick could not happen, and is still due.
    stuck: bool = False


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
        self._forwarder = ground.bus.rooms.forwarder

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
        await _all(map(self._serve, claims.claims))
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
        except BrokerError as error:
            # One address with a key of the wrong type must not keep the others waiting.
            self.refused(claim.address, error)
            next_ms = claim.score + (_RETRY_MS if isinstance(error, BrokerOutOfMemory) else _BROKEN_MS)
        await self._ticking.settle(claim, next_ms)

    async def _look_at(self, address: str) -> int | None:
        """Let every tick of an address happen that has come; returns when to look again (ms)."""
        await self._store.note_address(address)
        moments: list[int | None] = []
        stuck = 0
        while True:
            # Those that cannot tick now stay the earliest: looking past them, they keep no others waiting.
            due = await self._store.due(address, _MOST_LOOKED_AT, stuck)
            looks = await _all(self._advance(stored, due.server_ms) for stored in due.schedules)
            stuck += sum(look.stuck for look in looks)
            moments += [look.next_ms for look in looks]
            if due.next_ms is None or due.next_ms > due.server_ms or self.ground.stopping.is_set():
                break
        return min((moment for moment in (due.next_ms, *moments) if moment is not None), default=None)

    async def _advance(self, stored: StoredSchedule, now_ms: int) -> _Look:
        """Let the ticks of one schedule happen."""
        try:
            return _Look(await self._carry_out(stored, now_ms))
        except BrokerUnavailable:
            raise
        except InvalidValue as error:
            self.refused(f"{stored.address}:{stored.id}", error)
            return _Look(now_ms + _BROKEN_MS, stuck=True)
        except BrokerError as error:
            # The address or the server is full, or a key of the target has another type.
            self.refused(f"{stored.address}:{stored.id}", error)
            return _Look(now_ms + _RETRY_MS, stuck=True)

    async def _carry_out(self, stored: StoredSchedule, now_ms: int) -> int | None:
        """Take the steps that are due; returns when to look again (ms). Raises `BrokerRefused`."""
        assert stored.tick_ms is not None
        if stored.state.ended_at is not None or not stored.definition:
            await self._store.cancel(stored.address, stored.id, stored.tick_ms)
            return None
        definition = Definition.from_json(stored.definition)
        number = stored.state.sent + stored.state.missed + 1
        next_ms: int | None = None
        for step in definition.calendar().plan(stored.tick_ms, now_ms):
            await self._forwarder.ensure_fresh()
            owed = self._forwarder.owed({definition.topic}).get(definition.topic, ())
            if owed:
                await self._forwarder.expect(stored.address, again=False)
            tick = _tick(stored, definition, step, number + step.position, owed)
            ticked = await self._store.tick(stored.address, stored.id, tick)
            if ticked.answer in ("full", "refused"):
                raise BrokerRefused(ticked.detail or f"{stored.address} takes no more messages now")
            if ticked.answer == "early":
                # The server's clock was set back.
                return step.expected_ms
            if ticked.answer == "moved":
                # Somebody else was faster, or paused or cancelled it.
                return int(ticked.detail) if ticked.detail else None
            if ticked.answer == "sent" and self._forwarder.concerns(definition.topic):
                await self._forwarder.forward([_arrival(stored.address, definition, tick)])
            self.report.late(max(0, now_ms - step.expected_ms))
            next_ms = step.next_ms
        return next_ms if next_ms is not None else now_ms + KEEP_ENDED_MS

    async def _sweep(self) -> None:
        """Announce every address that has ticks: announcements can get lost, and the set with its server."""
        async for names in my_addresses(self.ground, self.name):
            await self._ticking.announce_all(await self._store.first_ticks(list(filter(_is_ours, names))))


def _is_ours(address: str) -> bool:
    try:
        return parse_address(address) == address and address != SELF_TIMED
    except InvalidValue:
        return False


def _tick(
    stored: StoredSchedule, definition: Definition, step: Step, number: int, owed: Sequence[str]
) -> Tick:
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
        definition=stored.definition,
        owed=_note(message, definition, owed) if message and owed else None,
    )


def _note(message: bytes, definition: Definition, agents: Sequence[str]) -> Mapping[str, Any]:
    """Return what is noted with a tick of which copies are owed."""
    notes, options = DebtNotes(), {} if definition.ttl_ms is None else {"ttl": definition.ttl_ms}
    message_id = orjson.loads(message)["message_id"]
    notes.enter(message_id, definition.topic, definition.lane, options, agents)
    return notes.told()


def _arrival(address: str, definition: Definition, tick: Tick) -> Arrival:
    """Return what those who are bound to the topic of a schedule are told of a tick that was sent."""
    return Arrival(
        topic=definition.topic,
        address=address,
        message_id=orjson.loads(tick.message)["message_id"],
        text=tick.message,
        priority=PRIORITIES[tick.lane],
        until=asyncio.get_running_loop().time() + _COPYING_PATIENCE,
        ttl_ms=tick.ttl_ms,
    )


async def _all(steps: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return all results; an error is raised when every step has ended: none goes on behind our back."""
    results: list[Result] = []
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
