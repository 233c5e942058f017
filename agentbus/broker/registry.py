"""Who serves: the agents of a deployment and their instances, as Redis holds them.

An agent's record is written before the index that lists it, and goes after it: whatever the index names was
registered. The two are no one slot, so each step is safe to repeat.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentbus.broker import keys
from agentbus.broker.connection import Argument, Broker
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerOutOfMemory

#: Beats that an instance may miss before it is taken out of its agent's record.
FORGET_AFTER_BEATS = 10
#: Records read in one round trip.
_PAGE = 500
_INSTANCE = "instance:"


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One process that serves an agent; times in ms by the server's clock."""

    id: str
    host: str
    pid: int
    #: How often it says that it lives.
    beat_ms: int
    since: int = 0
    last_seen: int = 0


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """One agent as it is stored; times in ms by the server's clock."""

    name: str
    type: str
    capabilities: tuple[str, ...]
    registered_at: int
    #: When any instance of it was last seen.
    last_seen: int
    instances: tuple[StoredInstance, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Description:
    """What an agent is, as one of its instances says."""

    name: str
    type: str
    capabilities: tuple[str, ...]
    #: Whether this is only what a looker without the agent's program assumes: then what is written stays.
    assumed: bool = False


class Registry:
    """Reads and writes ``agentbus:agents`` and the record of each agent."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._index = keys.agents(prefix)

    async def register(self, agent: Description, instance: StoredInstance, *, beat: bool) -> str | None:
        """Say that an instance serves; returns the type that was written before, None when it was unknown."""
        about = {"host": instance.host, "pid": instance.pid, "beat_ms": instance.beat_ms}
        arguments: tuple[Argument, ...] = (
            instance.id, json.dumps(about), "beat" if beat else "begin", agent.type,
            json.dumps(agent.capabilities), "1" if agent.assumed else "", FORGET_AFTER_BEATS,
        )  # fmt: skip
        call = Call(load("register"), (keys.agent(self._prefix, agent.name),), arguments)
        now, before = await run(self._broker, call)
        # A full server refuses this; it is repeated with each beat.
        with contextlib.suppress(BrokerOutOfMemory):
            await self._broker.execute("ZADD", self._index, "GT", int(now), agent.name)
        return before.decode() or None

    async def deregister(self, name: str, instance_id: str) -> None:
        """Take an instance out that ends; its agent stays known."""
        call = Call(load("deregister"), (keys.agent(self._prefix, name),), (instance_id,))
        (now,) = await run(self._broker, call)
        # XX: one that was forgotten meanwhile stays forgotten.
        await self._broker.execute("ZADD", self._index, "XX", "GT", int(now), name)

    async def forget(self, name: str) -> bool:
        """Take an agent out; returns whether it was known. One that serves is back with its next beat."""
        known = await self._broker.execute("ZREM", self._index, name)
        await self._broker.execute("DEL", keys.agent(self._prefix, name))
        return bool(known)

    async def unknown(self, names: Sequence[str]) -> list[str]:
        """Return those of some names that were never registered, or were forgotten."""
        scores = await self._broker.execute("ZMSCORE", self._index, *names)
        return [name for name, score in zip(names, scores, strict=True) if score is None]

    async def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted(name.decode() for name in await self._broker.execute("ZRANGE", self._index, 0, -1))

    async def get(self, name: str) -> StoredAgent | None:
        """Return one agent; None when it is not known."""
        score = await self._broker.execute("ZSCORE", self._index, name)
        found = [] if score is None else await self._read([(name, int(float(score)))])
        return found[0] if found else None

    async def all(self) -> tuple[int, list[StoredAgent]]:
        """Return the server's time in ms, and every known agent by name."""
        now = await self.server_ms()
        flat = await self._broker.execute("ZRANGE", self._index, 0, -1, "WITHSCORES")
        seen = sorted((name.decode(), int(float(score))) for name, score in _pairs(flat))
        found: list[StoredAgent] = []
        for begin in range(0, len(seen), _PAGE):
            found += await self._read(seen[begin : begin + _PAGE])
        return now, found

    async def server_ms(self) -> int:
        """Return the server's time in ms."""
        time = await self._broker.execute("TIME")
        return int(time[0]) * 1000 + int(time[1]) // 1000

    async def _read(self, seen: Sequence[tuple[str, int]]) -> list[StoredAgent]:
        replies = await self._broker.pipeline(
            [("HGETALL", keys.agent(self._prefix, name)) for name, _ in seen]
        )
        found = []
        for (name, last_seen), reply in zip(seen, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            # Without a record it was forgotten a moment ago.
            if reply:
                found.append(_agent_of(name, last_seen, reply))
        return found


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _agent_of(name: str, last_seen: int, flat: Sequence[bytes]) -> StoredAgent:
    fields = {key.decode(errors="replace"): value for key, value in _pairs(flat)}
    capabilities = _json(fields.get("capabilities", b""))
    registered = fields.get("registered_at", b"")
    instances = (
        _instance_of(key.removeprefix(_INSTANCE), _json(value))
        for key, value in fields.items()
        if key.startswith(_INSTANCE)
    )
    return StoredAgent(
        name=name,
        type=fields.get("type", b"").decode(errors="replace") or name,
        capabilities=tuple(str(each) for each in capabilities) if isinstance(capabilities, list) else (),
        registered_at=int(registered) if registered.isdigit() else last_seen,
        last_seen=last_seen,
        instances=tuple(sorted((each for each in instances if each), key=lambda each: (each.since, each.id))),
    )


def _instance_of(instance_id: str, record: Any) -> StoredInstance | None:
    """Return an instance, or None for what somebody wrote by hand and that is none."""
    if not isinstance(record, Mapping):
        return None
    try:
        return StoredInstance(
            instance_id,
            str(record["host"]),
            *(int(record[name]) for name in ("pid", "beat_ms", "since", "last_seen")),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
