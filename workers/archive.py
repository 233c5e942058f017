"""Role ``archive``: what has ended goes to PostgreSQL before it may leave Redis.

Off without a connection string. Redis is told as soon as the role starts, whether or not PostgreSQL answers:
from then on retention waits, and an address whose messages must be archived takes no more than its limit.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import ClassVar

from agentbus.archive.connection import Database
from agentbus.archive.migrations import migrate
from agentbus.archive.transfer import Transfer
from agentbus.archive.writer import ArchiveWriter
from agentbus.broker.archiving import ArchivedAddress, ArchivedInbox, ArchiveSwitch, Backlog, archived_address
from agentbus.errors import AgentBusError, ArchiveUnavailable, BrokerRefused
from agentbus.message.address_policy import Policy
from agentbus.message.durations import seconds
from workers.role import Ground, Role, logger
from workers.walk import my_addresses

#: Parts of one address before the others get their turn.
_PARTS = 20
#: Seconds between passes when there was nothing to do.
_IDLE = 0.5
#: Seconds between looks at how far behind the archive is.
_WATCH = 5.0
#: Seconds between looks at the partitions.
_TEND = 3_600.0
#: An archive further behind is an alarm: hours before history or an address is full, at usual rates.
_LATE_MS = 300_000
#: Part of an address' limit that unarchived messages may take before it is an alarm.
_CROWDED = 0.5
#: Seconds until the same alarm is raised again.
_AGAIN = 600.0


class Archive(Role):
    """Archives this process's share of the addresses."""

    name: ClassVar[str] = "archive"
    summary: ClassVar[str] = "what has ended goes to PostgreSQL; off unless AGENTBUS_ARCHIVE names a database"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        rooms, settings = ground.bus.rooms, ground.bus.settings
        self._broker, self._prefix = rooms.broker, settings.prefix
        self._switch = ArchiveSwitch(self._broker, self._prefix)
        dsn = ground.settings.archive
        self._database = Database(dsn) if dsn else None
        self._ready = False
        #: (action, address) to when it was raised last.
        self._raised: dict[tuple[str, str], float] = {}
        if self._database is None:
            self.report.idle = "off: no AGENTBUS_ARCHIVE"
            return
        self._writer = ArchiveWriter(self._database, self._prefix)
        self._transfer = Transfer(self._writer, self._once)

    async def start(self) -> None:
        """Tell Redis, and make the tables if PostgreSQL answers; if not, `run` goes on trying."""
        if self._database is None:
            logger.info("%s is %s", self.name, self.report.idle)
            return
        await self._switch.turn_on()
        try:
            await self._prepare()
        except ArchiveUnavailable as error:
            logger.warning("%s: %s", self.name, error, extra={"role": self.name})
            self.report.failed(error)

    async def run(self) -> None:
        """Archive, watch how far behind that is, and keep the partitions."""
        if self._database is None:
            await self.ground.stopping.wait()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self.every(0.0, self.archive), name="agentbus archive transfer")
            group.create_task(self.every(_WATCH, self.watch), name="agentbus archive watch")
            group.create_task(self.every(_TEND, self.tend), name="agentbus archive partitions")

    async def stop(self) -> None:
        """Close the connection."""
        if self._database is not None:
            await self._database.close()

    # --- into the archive ---

    async def archive(self) -> None:
        """Go once over this share of the addresses; without anything to do, pause."""
        if not self._ready:
            await self._prepare()
        # Whatever an earlier pass could not commit is read again.
        self._transfer.reset()
        busy = False
        try:
            async for names in my_addresses(self.ground, self.name):
                for name in names:
                    busy = await self._archive_one(name) or busy
            await self._transfer.flush()
        except ArchiveUnavailable:
            # It may come back without tables, or not at all: nothing is read before it has answered.
            self._ready = False
            raise
        if not busy:
            await self.ground.pause(_IDLE)

    async def _archive_one(self, address: str) -> bool:
        source = archived_address(self._broker, self._prefix, address)
        try:
            if (await self._policy(source)).archive == "never":
                return False
            taken = await self._transfer.take(source)
            for _ in range(_PARTS):
                if not taken.more or self.ground.stopping.is_set():
                    return taken.any
                await self._transfer.flush()
                taken = await self._transfer.take(source)
        except BrokerRefused as error:
            # One spoilt address (a key of another type, no right to it) must not stop the others.
            logger.warning("%s: %s: %s", self.name, address, error, extra={"role": self.name})
            self.report.failed(error)
        return True

    async def _prepare(self) -> None:
        assert self._database is not None
        applied = await migrate(self._database)
        if applied:
            logger.info("%s: %s made with %s", self.name, self._database.place, ", ".join(applied))
        await self._writer.prepare()
        self._ready = True

    # --- how far behind ---

    async def watch(self) -> None:
        """Look how far behind the archive is, whether or not PostgreSQL answers, and raise alarms."""
        await self._switch.turn_on()
        latest = 0
        async for names in my_addresses(self.ground, self.name):
            for name in names:
                source = archived_address(self._broker, self._prefix, name)
                try:
                    latest = max(latest, await self._watch_one(source))
                except BrokerRefused as error:
                    self.report.failed(error)
        self.report.lag_ms = latest

    async def _watch_one(self, source: ArchivedAddress) -> int:
        policy = await self._policy(source)
        if isinstance(source, ArchivedInbox):
            await source.count_unarchived(policy.must_be_archived)
        if policy.archive == "never":
            return 0
        backlog = await source.backlog()
        limit = policy.limit or self.ground.bus.settings.publisher.address_limit
        self._judge(source.address, backlog, limit)
        return backlog.lag_ms

    def _judge(self, address: str, backlog: Backlog, limit: int) -> None:
        if backlog.unarchived > limit * _CROWDED:
            why = f"{backlog.unarchived} ended messages are not archived, and {limit} fill the address"
        elif backlog.lag_ms > _LATE_MS:
            why = "what has ended is not archived"
        else:
            self._raised.pop(("archive_lag", address), None)
            return
        self._once("archive_lag", address, f"{why}; {backlog.lag_ms // 1000} seconds behind")

    def _once(self, action: str, address: str, detail: str) -> None:
        """Raise an event, the same one of an address not more often than every ten minutes."""
        now = time.monotonic()
        if now - self._raised.get((action, address), -_AGAIN) >= _AGAIN:
            self._raised[action, address] = now
            self.ground.bus.events.emit(action, address, detail)

    async def _policy(self, source: ArchivedAddress) -> Policy:
        try:
            return Policy.from_fields(await source.policy_fields())
        except BrokerRefused:
            raise
        except AgentBusError:
            # Written by hand and none: the address is archived as if nobody had said anything.
            return Policy()

    # --- partitions ---

    async def tend(self) -> None:
        """Make partitions in advance, and drop those that are older than the archive keeps."""
        if not self._ready:
            return
        await self._writer.prepare()
        keep = self.ground.settings.archive_keep
        if keep is not None:
            dropped = await self._writer.drop_older_than(timedelta(seconds=seconds(keep, "archive_keep")))
            if dropped:
                logger.info("%s: dropped %s", self.name, ", ".join(dropped))
