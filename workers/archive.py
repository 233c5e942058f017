"""Role ``archive``: what has ended goes to PostgreSQL before it may leave Redis.

Off without a connection string. Redis is told as soon as the role starts, whether or not PostgreSQL answers:
from then on retention waits, and an address whose messages must be archived takes no more than its limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from agentbus.archive.connection import Database
from agentbus.archive.migrations import migrate
from agentbus.archive.transfer import Transfer
from agentbus.archive.writer import ArchiveWriter
from agentbus.broker.archiving import ArchivedAddress, ArchivedInbox, ArchiveSwitch, backlogs_of
from agentbus.broker.backlog import Backlog
from agentbus.errors import ArchiveError, ArchiveUnavailable, BrokerRefused, InvalidValue
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
        except ArchiveError as error:
            # A right that is missing is no reason either to take the other roles of this process down. The
            # first step meets the same error, and logs it.
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
                for source, backlog in await self._look(names):
                    if _needs_work(source, backlog):
                        busy = await self._archive_one(source) or busy
            await self._transfer.flush()
        except ArchiveUnavailable:
            # It may come back without tables, or not at all: nothing is read before it has answered.
            self._ready = False
            raise
        if not busy:
            await self.ground.pause(_IDLE)

    async def _look(self, names: Sequence[str]) -> list[tuple[ArchivedAddress, Backlog]]:
        """Ask of many addresses at once what is not archived: most of them are idle most of the time."""
        looks = []
        for source, backlog in await backlogs_of(self._broker, self._prefix, names):
            if isinstance(backlog, Backlog):
                looks.append((source, backlog))
            else:
                self.refused(source.address, backlog)
        return looks

    async def _archive_one(self, source: ArchivedAddress) -> bool:
        try:
            taken = await self._transfer.take(source)
            for _ in range(_PARTS):
                if not taken.more or self.ground.stopping.is_set():
                    return taken.any
                await self._transfer.flush()
                taken = await self._transfer.take(source)
        except BrokerRefused as error:
            # A key of another type, say: not at once again.
            self.refused(source.address, error)
            return False
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
            for source, backlog in await self._look(names):
                latest = max(latest, await self._watch_one(source, backlog))
        self.report.lag_ms = latest

    async def _watch_one(self, source: ArchivedAddress, backlog: Backlog) -> int:
        policy = _policy(backlog)
        if isinstance(source, ArchivedInbox) and backlog.counts != policy.must_be_archived:
            await source.count_unarchived(policy.must_be_archived)
        if policy.archive == "never":
            return 0
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
        if self._is_time((action, address)):
            self.ground.bus.events.emit(action, address, detail)

    def _is_time(self, what: tuple[str, str]) -> bool:
        now = time.monotonic()
        if now - self._raised.get(what, -_AGAIN) < _AGAIN:
            return False
        self._raised[what] = now
        return True

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


def _policy(backlog: Backlog) -> Policy:
    try:
        return Policy.from_fields(backlog.policy)
    except InvalidValue:
        # Written by hand and none: the address is archived as if nobody had said anything.
        return Policy()


def _needs_work(source: ArchivedAddress, backlog: Backlog) -> bool:
    # An inbox without a border keeps all its history: it gets one even if nothing has ended there.
    borderless = isinstance(source, ArchivedInbox) and not backlog.has_border
    return (backlog.any or borderless) and _policy(backlog).archive != "never"
