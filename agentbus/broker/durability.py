"""Levels of durability: which ones this server really gives, and waiting for them.

``stream``: stored, synced to disk as the server is configured. ``disk``: synced to disk. ``replicated``:
acknowledged by every replica that could be promoted. Both are awaited by a barrier (a small write, then
WAITAOF or WAIT) on a connection of its own, which covers everything stored before it and holds up nobody.
See https://redis.io/docs/latest/commands/waitaof/ and https://redis.io/docs/latest/commands/wait/.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from agentbus.broker.connection import Broker, Link
from agentbus.errors import BrokerError, BrokerRefused, DurabilityUnavailable
from agentbus.events import Events
from agentbus.message.policy import Durability

#: Seconds between an honest server's syncs under ``appendfsync everysec``; of two barriers in a row, one
#: must wait for most of it.
_HONEST_WAIT = 0.2
_PROBE_TIMEOUT_MS = 3_000


@dataclass(frozen=True, slots=True)
class ServerDurability:
    """What one server can do."""

    appendonly: bool
    #: ``always``, ``everysec``, ``no``, or ``unknown`` when the server does not say.
    appendfsync: str
    #: Whether WAITAOF exists and waits for a sync instead of answering at once.
    honest_waitaof: bool
    replicas: int

    @property
    def disk(self) -> bool:
        """Whether ``disk`` can be had."""
        return self.appendonly and (self.appendfsync == "always" or self.honest_waitaof)


async def probe(broker: Broker, prefix: str) -> ServerDurability:
    """Find out what the server gives, by asking and, for WAITAOF, by trying."""
    appendonly, appendfsync = await _configured(broker)
    replicas = await count_replicas(broker)
    honest = False
    if appendonly and appendfsync != "always":
        link = broker.open_link(timeout=_PROBE_TIMEOUT_MS / 1000 + 1.0)
        try:
            honest = await waitaof_waits(link, prefix)
        finally:
            await link.close()
    return ServerDurability(appendonly, appendfsync, honest, replicas)


async def _configured(broker: Broker) -> tuple[bool, str]:
    try:
        reply = await broker.execute("CONFIG", "GET", "append*")
        values = dict(zip(reply[::2], reply[1::2], strict=True))
        return values.get(b"appendonly") == b"yes", values.get(b"appendfsync", b"unknown").decode()
    except BrokerRefused:
        information = await broker.execute("INFO", "persistence")
        return b"aof_enabled:1" in information, "unknown"


async def count_replicas(broker: Broker) -> int:
    """Return how many replicas are connected."""
    information = (await broker.execute("INFO", "replication")).decode()
    for line in information.splitlines():
        if line.startswith("connected_slaves:"):
            return int(line.partition(":")[2])
    return 0


async def waitaof_waits(link: Link, prefix: str) -> bool:
    """Return whether WAITAOF really waits: of two writes within a second, one must be kept waiting.

    Valkey 9.1 with everysec answers before any sync; Redis corrected the same in 7.4.
    """
    waits = []
    for _ in range(2):
        begun = time.monotonic()
        try:
            await link.execute("SET", f"{prefix}:probe", "1", "PX", 5000)
            reply = await link.execute("WAITAOF", 1, 0, _PROBE_TIMEOUT_MS)
        except BrokerRefused:
            return False
        if not reply or int(reply[0]) < 1:
            return False
        waits.append(time.monotonic() - begun)
    return max(waits) >= _HONEST_WAIT


class Durabilities:
    """Waits for levels of durability, for one publisher."""

    def __init__(self, broker: Broker, prefix: str, events: Events) -> None:
        self._broker = broker
        self._prefix = prefix
        self._events = events
        self._server: ServerDurability | None = None
        self._link: Link | None = None
        self._probing: asyncio.Lock = asyncio.Lock()
        self._barrier_lock: asyncio.Lock = asyncio.Lock()
        #: For each level the barrier that has not begun to write: it covers all who join until it does.
        self._next_barriers: dict[Durability, asyncio.Task[bool]] = {}
        self._barriers: set[asyncio.Task[bool]] = set()
        self._inherited: list[Link] = []
        self._warned = False

    @property
    def may_reach_disk(self) -> bool:
        """False once it is known that the server cannot; saves messages the wait for an answer."""
        return self._server is None or self._server.disk

    def forget_links(self) -> None:
        """Abandon connections after a fork or in another event loop."""
        if self._link is not None:
            # Kept: collected as garbage after a fork it would deafen the parent's connection.
            self._inherited.append(self._link)
        self._link = None
        self._next_barriers = {}
        self._probing, self._barrier_lock = asyncio.Lock(), asyncio.Lock()

    def forget_server(self) -> None:
        """Find out anew what the server gives: it was away and may have been configured otherwise."""
        self._server = None

    async def check(self, level: Durability) -> None:
        """Raise `DurabilityUnavailable` for a level asked for that this server cannot give."""
        server = await self._known()
        if level == "disk" and not server.disk:
            raise DurabilityUnavailable(
                "durability: this server cannot confirm disk. Set appendonly yes and appendfsync always, or "
                "use a server whose WAITAOF waits for the sync (Redis 7.4 or later)"
            )
        if level == "replicated" and await count_replicas(self._broker) == 0:
            raise DurabilityUnavailable("durability: this server has no replica")

    async def reach(self, level: Durability, timeout: float) -> Durability:
        """Wait for a level, at most ``timeout`` seconds, and return the one reached."""
        try:
            async with asyncio.timeout(timeout):
                server = await self._known()
                if level == "disk" and not server.disk:
                    self._degrade(server)
                    return "stream"
                if level == "disk" and server.appendfsync == "always":
                    # The server answers a write only after its sync.
                    return "disk"
                return level if await self._shared_barrier(level) else "stream"
        except (TimeoutError, BrokerError):
            # The messages are stored; raising would make their callers publish them again.
            return "stream"

    async def _known(self) -> ServerDurability:
        async with self._probing:
            if self._server is None:
                self._server = await probe(self._broker, self._prefix)
            return self._server

    async def _shared_barrier(self, level: Durability) -> bool:
        """Wait for the next barrier together with all others: each may take the second a sync takes."""
        task = self._next_barriers.get(level)
        if task is None:
            task = asyncio.create_task(self._barrier(level), name=f"agentbus barrier {level}")
            self._next_barriers[level] = task
            self._barriers.add(task)
            task.add_done_callback(self._barriers.discard)
        return await asyncio.shield(task)

    async def _barrier(self, level: Durability) -> bool:
        """Write and wait. A barrier that begins after a message was stored covers it."""
        async with self._barrier_lock:
            # Whoever comes from here on was perhaps stored after the write below.
            self._next_barriers.pop(level, None)
            if self._link is None:
                self._link = self._broker.open_link(timeout=30.0)
            await self._link.execute("SET", f"{self._prefix}:barrier", "1", "PX", 60_000)
            if level == "disk":
                reply = await self._link.execute("WAITAOF", 1, 0, 25_000)
                return int(reply[0]) >= 1
            wanted = await count_replicas(self._broker)
            if wanted == 0:
                return False
            return int(await self._link.execute("WAIT", wanted, 25_000)) >= wanted

    def _degrade(self, server: ServerDurability) -> None:
        if not self._warned:
            self._warned = True
            self._events.emit(
                "durability_degraded",
                "",
                "critical and high messages are confirmed when stored, not when on disk: this server has "
                f"appendonly {'yes' if server.appendonly else 'no'}, appendfsync {server.appendfsync} and "
                "no WAITAOF that waits. Set appendfsync always to have them confirmed on disk",
            )

    async def close(self) -> None:
        """End what still waits, and close the barrier's connection."""
        for task in tuple(self._barriers):
            task.cancel()
        if self._link is not None:
            await self._link.close()
