"""The worker processes as Redis holds them: who lives, which roles run where, and how they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agentbus.broker import keys
from agentbus.broker.connection import Broker
from agentbus.broker.scripts import Call, load, run

#: A worker that has not beaten for this long is taken for dead.
ABSENT_AFTER_MS = 4_000
#: A worker that died is shown for this long.
FORGET_AFTER_MS = 600_000


@dataclass(frozen=True, slots=True)
class RoleState:
    """How one role of one worker does."""

    #: How far behind it is; each role says what that means, None when it does not know yet.
    lag_ms: int | None = None
    #: Steps done since the worker began.
    steps: int = 0
    last_error: str = ""
    #: Unix time in ms, by the worker's own clock.
    error_at: int | None = None
    #: Why it does nothing, on purpose: others do its share. Empty while it works.
    idle: str = ""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker process."""

    id: str
    host: str
    pid: int
    #: Unix time in ms, by the worker's own clock.
    started_at: int
    #: ``running`` or ``draining``.
    phase: str
    roles: Mapping[str, RoleState]
    version: str = ""
    #: Unix time in ms, by the server's clock; 0 before the first beat.
    seen_at: int = 0

    def to_json(self) -> str:
        """Return what is stored."""
        return json.dumps(asdict(self), default=dict)


@dataclass(frozen=True, slots=True)
class Roll:
    """The workers at one moment."""

    server_ms: int
    workers: tuple[WorkerState, ...] = field(default=())


class WorkerRegistry:
    """Reads and writes ``agentbus:workers``."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._key = keys.workers(prefix)

    async def beat(self, worker: WorkerState) -> Roll:
        """Say that a worker lives; returns all that are known."""
        call = Call(load("worker_beat"), (self._key,), (worker.id, worker.to_json(), FORGET_AFTER_MS))
        reply = await run(self._broker, call)
        found = (_worker_of(record) for record in reply[2::2])
        return Roll(int(reply[0]), tuple(worker for worker in found if worker is not None))

    async def leave(self, worker_id: str) -> None:
        """Take a worker that stops out."""
        await self._broker.execute("HDEL", self._key, worker_id)

    async def roll(self) -> Roll:
        """Return all workers, for looking; writes nothing."""
        time, records = await self._broker.pipeline([("TIME",), ("HVALS", self._key)])
        for reply in (time, records):
            if isinstance(reply, Exception):
                raise reply
        found = (_worker_of(record) for record in records)
        server_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        return Roll(server_ms, tuple(worker for worker in found if worker is not None))


def _worker_of(text: bytes) -> WorkerState | None:
    """Return a record, or None for one that somebody wrote by hand and that is none."""
    try:
        record: dict[str, Any] = json.loads(text)
        # Lua writes an empty object as an empty list.
        roles = {name: RoleState(**state) for name, state in dict(record.pop("roles") or {}).items()}
        return WorkerState(roles=roles, **record)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
