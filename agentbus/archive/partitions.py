"""Partitions of the archive: one per month of `ended_at`, made in advance, dropped when too old."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentbus.archive.connection import Database
from agentbus.archive.migrations import LOCK

if TYPE_CHECKING:
    from psycopg import AsyncConnection

#: (year, month)
Month = tuple[int, int]
_NAME = re.compile(r"messages_(\d{4})_(\d{2})")


def month_of(moment: datetime) -> Month:
    """Return the month (UTC) in which something ended."""
    in_utc = moment.astimezone(UTC)
    return in_utc.year, in_utc.month


def next_month(month: Month) -> Month:
    """Return the month after another one."""
    year, number = month
    return (year + 1, 1) if number == 12 else (year, number + 1)


class Partitions:
    """Makes and drops partitions; remembers which are there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: set[Month] = set()

    def forget(self) -> None:
        """Look again before the next write: somebody else may have dropped what was there."""
        self._known.clear()

    async def ensure(self, months: Iterable[Month]) -> None:
        """Make what is missing for these months. Old history and clocks that are wrong need odd ones."""
        missing = sorted(set(months) - self._known)
        if not missing:
            return

        async def make(connection: AsyncConnection[Any]) -> set[Month]:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            there = await _existing(connection)
            for month in missing:
                if month not in there:
                    await _make(connection, month)
            return there

        self._known |= await self._database.run(make) | set(missing)

    async def prepare(self, now: datetime) -> None:
        """Make those of this and the next two months."""
        first = month_of(now)
        second = next_month(first)
        await self.ensure((first, second, next_month(second)))

    async def server_time(self) -> datetime:
        """Return what PostgreSQL's clock says."""

        async def ask(connection: AsyncConnection[Any]) -> datetime:
            rows = await connection.execute("SELECT clock_timestamp()")
            found = await rows.fetchone()
            assert found is not None and isinstance(found[0], datetime)
            return found[0]

        return await self._database.run(ask)

    async def drop_before(self, moment: datetime) -> list[str]:
        """Drop every partition that ended before a moment; returns their names."""

        async def drop(connection: AsyncConnection[Any]) -> list[str]:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            old = [month for month in await _existing(connection) if _begin(next_month(month)) <= moment]
            for month in sorted(old):
                await connection.execute(f"DROP TABLE {_name(month)}".encode())
            return [_name(month) for month in sorted(old)]

        dropped = await self._database.run(drop)
        if dropped:
            self.forget()
        return dropped


def _name(month: Month) -> str:
    return f"messages_{month[0]:04}_{month[1]:02}"


def _begin(month: Month) -> datetime:
    if month[0] > datetime.max.year:
        return datetime.max.replace(tzinfo=UTC)
    return datetime(month[0], month[1], 1, tzinfo=UTC)


async def _existing(connection: AsyncConnection[Any]) -> set[Month]:
    rows = await connection.execute(
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid"
        " WHERE inhparent = 'messages'::regclass"
    )
    found = (_NAME.fullmatch(name) for (name,) in await rows.fetchall())
    return {(int(match[1]), int(match[2])) for match in found if match}


async def _make(connection: AsyncConnection[Any], month: Month) -> None:
    """Attached, not created as a partition: that would wait for everybody who reads the archive."""
    name, begin, end = _name(month), _begin(month), _begin(next_month(month))
    await connection.execute(f"CREATE TABLE {name} (LIKE messages INCLUDING ALL)".encode())
    await connection.execute(
        f"ALTER TABLE messages ATTACH PARTITION {name} "
        f"FOR VALUES FROM ('{begin.isoformat()}') TO ('{end.isoformat()}')".encode()
    )
