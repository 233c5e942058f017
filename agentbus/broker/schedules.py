"""The schedules of an address as Redis holds them: in the hash tag of the messages they send.

A schedule is two fields of one hash: ``<id>`` is its definition, written once, and ``<id>:state`` what
scripts change. Scripts never rewrite a definition: its message may hold numbers that Lua cannot keep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from agentbus.broker import keys
from agentbus.broker.connection import Argument, Broker
from agentbus.broker.scripts import Call, load, run
from agentbus.message.policy import PRIORITIES
from agentbus.message.topics import is_channel

#: Its schedule is kept by the role `status`; nothing else recurs there, and role `recurring` passes it by.
SELF_TIMED = "system.bus"
#: How long a schedule that has ended can still be looked at.
KEEP_ENDED_MS = 86_400_000
#: Fields of the hash that one HSCAN looks at.
_SCAN_STEP = 200

TickAnswer = Literal["sent", "passed", "moved", "early", "full", "refused"]


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick that is to happen; times in Unix ms."""

    #: The tick that the caller means; another one stands there when somebody was faster.
    expected_ms: int
    #: The tick after it; None when this is the last.
    next_ms: int | None
    #: The envelope as JSON text; empty when ticks are passed over and nothing is sent.
    message: bytes = b""
    #: Index into `policy.PRIORITIES`; a channel has no lanes.
    lane: int = 2
    ttl_ms: int | None = None
    #: Ticks that get no message of their own with this step.
    passed: int = 0
    #: What the message was made from: nothing is sent when something else is stored by now. Empty: any.
    definition: bytes = b""
    #: What is noted with the message where copies of it are owed; see `owed.DebtNotes.told`.
    owed: Mapping[str, Any] | None = None


class Ticked(NamedTuple):
    """What became of a tick; see ``tick.lua``."""

    answer: TickAnswer
    #: ``sent``: the entry id; ``moved``: the tick that stands there; ``refused``: what the server said.
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What changes about a schedule; times in Unix ms by the server's clock."""

    enabled: bool = True
    next_send_at: int | None = None
    last_sent_at: int | None = None
    #: When it had its last tick; it goes a day later.
    ended_at: int | None = None
    sent: int = 0
    #: Ticks that got no message of their own: nobody was there to send it.
    missed: int = 0


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """One schedule as it is stored."""

    address: str
    id: str
    #: The definition as JSON text; empty when somebody deleted it by hand.
    definition: bytes
    state: ScheduleState
    #: What `ticks` says; None when it was not asked, or has nothing.
    tick_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DueTicks:
    """The schedules of one address whose tick has come."""

    server_ms: int
    #: The earliest tick of any other schedule.
    next_ms: int | None
    schedules: tuple[StoredSchedule, ...] = field(default=())


class ScheduleStore:
    """Reads and writes the schedules of any address, inbox or channel."""

    def __init__(self, broker: Broker, prefix: str, address_limit: int) -> None:
        self._broker = broker
        self._prefix = prefix
        self._address_limit = address_limit

    async def add(self, address: str, schedule_id: str, definition: bytes, first_ms: int) -> bytes | None:
        """Add a schedule; returns the definition that is there already when the id is taken, else None."""
        await self.note_address(address)
        reply = await self._run("schedule_add", address, schedule_id, definition, first_ms)
        return reply[1] if reply[0] == b"known" else None

    async def note_address(self, address: str) -> None:
        """Add an address to the set of those in use: before the first write, as publishers do, and again
        when it ticks, in case the set was lost. The slow sweeps of the workers go by it."""
        await self._broker.execute("SADD", keys.addresses(self._prefix), address)

    async def pause(self, address: str, schedule_id: str) -> str:
        """Pause; returns ``paused``, ``ended`` or ``unknown``."""
        return _text(await self._run("schedule_pause", address, schedule_id))

    async def resume(self, address: str, schedule_id: str, next_ms: int) -> str:
        """Resume with a next tick; returns ``resumed``, ``running``, ``ended`` or ``unknown``."""
        return _text(await self._run("schedule_resume", address, schedule_id, next_ms))

    async def cancel(self, address: str, schedule_id: str, tick_ms: int | None = None) -> bool:
        """Remove a schedule, only if it stands at ``tick_ms`` when that is given; False: it was not there."""
        expected = "" if tick_ms is None else tick_ms
        return bool(await self._run("schedule_cancel", address, schedule_id, expected) == 1)

    async def tick(self, address: str, schedule_id: str, tick: Tick) -> Ticked:
        """Let one tick happen, unless somebody else did; see ``tick.lua``."""
        lane, names = self._target(address, tick.lane)
        arguments: tuple[Argument, ...] = (
            schedule_id,
            tick.expected_ms,
            "" if tick.next_ms is None else tick.next_ms,
            lane,
            self._address_limit,
            "" if tick.ttl_ms is None else tick.ttl_ms,
            tick.passed,
            KEEP_ENDED_MS,
            tick.message,
            hashlib.sha1(tick.definition, usedforsecurity=False).hexdigest() if tick.definition else "",
            "" if tick.owed is None else json.dumps(tick.owed),
        )
        reply = await run(self._broker, Call(load("tick"), names, arguments))
        return Ticked(reply[0].decode(), _text(reply[1]) if len(reply) > 1 else "")

    async def due(self, address: str, most: int, skipped: int = 0) -> DueTicks:
        """Return up to ``most`` schedules whose tick has come, the first ``skipped`` left out."""
        reply = await self._run("ticks_due", address, most, skipped)
        items = iter(reply[2:])
        schedules = tuple(
            StoredSchedule(address, _text(name), definition, _state(state), int(float(tick)))
            for name, tick, definition, state in zip(items, items, items, items, strict=True)
        )
        return DueTicks(int(reply[0]), int(float(reply[1])) if reply[1] else None, schedules)

    async def read(self, address: str, schedule_id: str) -> StoredSchedule | None:
        """Return one schedule, or None."""
        key, _ = self._keys(address)
        found = await self._broker.execute("HMGET", key, schedule_id, f"{schedule_id}:state")
        if found[0] is None:
            return None
        return StoredSchedule(address, schedule_id, found[0], _state(found[1]))

    async def all_at(self, address: str) -> AsyncIterator[StoredSchedule]:
        """Yield the schedules of an address, some at a time; one that changes meanwhile may come twice."""
        key, _ = self._keys(address)
        cursor = b"0"
        while True:
            cursor, found = await self._broker.execute("HSCAN", key, cursor, "COUNT", _SCAN_STEP)
            for name in found[::2]:
                # Definition and state may come in different steps of the scan.
                stored = None if b":" in name else await self.read(address, _text(name))
                if stored is not None:
                    yield stored
            if cursor == b"0":
                return

    async def server_ms(self) -> int:
        """Return the server's clock in ms: the one by which ticks happen."""
        seconds, microseconds = await self._broker.execute("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def first_ticks(self, addresses: Sequence[str]) -> list[tuple[str, int]]:
        """Return (address, earliest tick) of those addresses that have one."""
        found = await self._broker.pipeline(
            [("ZRANGE", self._keys(address)[1], 0, 0, "WITHSCORES") for address in addresses]
        )
        first: list[tuple[str, int]] = []
        for address, reply in zip(addresses, found, strict=True):
            # A key of another type is one address's trouble, and the look at it says so.
            if not isinstance(reply, Exception) and reply:
                first.append((address, int(float(reply[1]))))
        return first

    async def have_schedules(self, addresses: Sequence[str]) -> list[str]:
        """Return those addresses that have schedules, paused and ended ones included."""
        found = await self._broker.pipeline([("EXISTS", self._keys(address)[0]) for address in addresses])
        return [address for address, reply in zip(addresses, found, strict=True) if reply == 1]

    def _keys(self, address: str) -> tuple[str, str]:
        found = keys.channel_keys(self._prefix, address)
        return found.schedules, found.ticks

    def _target(self, address: str, lane: int) -> tuple[str, tuple[str, ...]]:
        """Return the lane's name and the keys that ``tick.lua`` needs."""
        if is_channel(address):
            channel = keys.channel_keys(self._prefix, address)
            return "log", (
                channel.ticks, channel.schedules, channel.ledger, channel.policy, channel.log,
                channel.owed, channel.owed_messages,
            )  # fmt: skip
        inbox = keys.inbox_keys(self._prefix, address)
        stream = inbox.priority_lanes[lane]
        return PRIORITIES[lane], (
            inbox.ticks, inbox.schedules, inbox.ledger, inbox.policy, stream,
            inbox.owed, inbox.owed_messages, inbox.lanes, inbox.dead,
        )  # fmt: skip

    async def _run(self, name: str, address: str, *arguments: Argument) -> Any:
        schedules, ticks = self._keys(address)
        return await run(self._broker, Call(load(name), (ticks, schedules), arguments))


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _state(text: bytes | None) -> ScheduleState:
    """Return a state; what somebody wrote by hand and is none reads as a new one."""
    try:
        fields = json.loads(text or b"{}")
        known = {name: fields[name] for name in ScheduleState.__slots__ if name in fields}
        return ScheduleState(**known)
    except (ValueError, TypeError):
        return ScheduleState()
