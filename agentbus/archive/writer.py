"""Writes rows: COPY into a temporary table, INSERT … ON CONFLICT DO NOTHING, commit.

A row is named by where its entry was and when it ended, both of which are the same at every attempt: whatever
is written again after a kill is there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentbus.archive.connection import Database
from agentbus.archive.partitions import Partitions, month_of
from agentbus.archive.rows import COLUMNS, clean, row_of
from agentbus.broker.archiving import Ended
from agentbus.errors import ArchiveRefused, ArchiveTimeout

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_NAMES = ", ".join(COLUMNS)
_STAGE = "CREATE TEMPORARY TABLE incoming (LIKE messages INCLUDING DEFAULTS) ON COMMIT DROP"
_COPY = f"COPY incoming ({_NAMES}) FROM STDIN"
#: An entry ends once. A row of it may have another time than this one all the same: where a settlement listed
#: more than it ended, or where the broker came back with an older state and the message ended again.
_INSERT = f"""INSERT INTO messages ({_NAMES}) SELECT {_NAMES} FROM incoming WHERE NOT EXISTS (
    SELECT 1 FROM messages there WHERE there.prefix = incoming.prefix AND there.address = incoming.address
    AND there.entry_ms = incoming.entry_ms AND there.entry_seq = incoming.entry_seq
    AND there.stream = incoming.stream) ON CONFLICT DO NOTHING""".encode()
_REFUSED = """INSERT INTO refused
    (prefix, address, stream, entry_id, ended_ms, outcome, consumer, raw, state, error)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""


_MOST_ROWS = 10_000


@dataclass(slots=True)
class Written:
    """What became of a batch."""

    #: Rows that are new in the archive; the others were there already.
    added: int = 0
    #: What the table did not take, with the server's reason; it is in the table ``refused``.
    refused: list[tuple[Ended, str]] = field(default_factory=list)


class ArchiveWriter:
    """Writes one deployment's messages."""

    def __init__(self, database: Database, prefix: str) -> None:
        """``prefix`` begins the keys of the deployment: several may share a database."""
        self._database = database
        self._prefix = prefix
        self._partitions = Partitions(database)
        #: Rows of one statement: fewer where they take too long.
        self._rows_at_once = _MOST_ROWS

    async def prepare(self) -> None:
        """Make the partitions that will be needed soon."""
        await self._partitions.prepare(datetime.now(UTC))

    async def drop_older_than(self, keep: timedelta) -> list[str]:
        """Drop partitions all of whose messages ended longer ago than ``keep``; returns their names."""
        # Two clocks, and the earlier one counts: a clock that jumped ahead must not empty the archive.
        now = min(datetime.now(UTC), await self._partitions.server_time())
        return await self._partitions.drop_before(now - keep)

    async def write(self, messages: Sequence[Ended]) -> Written:
        """Commit some messages; what is there already stays as it is.

        A message that the table refuses is found by halving, and kept in the table ``refused``: it must not
        hold up the others. Raises `ArchiveUnavailable` or `ArchiveError`, and then parts may be committed.
        """
        written = Written()
        left = messages
        while left:
            part = left[: self._rows_at_once]
            try:
                await self._write(part, written)
            except ArchiveTimeout:
                # Slow, not away: the same batch would never come through. What is committed is not doubled.
                if len(part) == 1:
                    raise
                self._rows_at_once = max(1, len(part) // 4)
            else:
                left = left[len(part) :]
                self._rows_at_once = min(_MOST_ROWS, self._rows_at_once + 1 + self._rows_at_once // 8)
        return written

    async def _write(self, messages: Sequence[Ended], written: Written) -> None:
        try:
            written.added += await self._insert(messages)
        except ArchiveRefused:
            # A partition that somebody dropped looks like a constraint: the next try makes it anew.
            self._partitions.forget()
            if len(messages) > 1:
                middle = len(messages) // 2
                await self._write(messages[:middle], written)
                await self._write(messages[middle:], written)
            else:
                await self._write_one(messages[0], written)

    async def _write_one(self, message: Ended, written: Written) -> None:
        try:
            written.added += await self._insert([message], bare=True)
        except ArchiveRefused as error:
            await self._set_aside(message, str(error))
            written.refused.append((message, str(error)))

    async def _insert(self, messages: Sequence[Ended], bare: bool = False) -> int:
        rows = [row_of(message, self._prefix) for message in messages]
        if bare:
            # JSON that jsonb does not take, by its depth or its numbers; the bytes are kept.
            rows = [replace(row, envelope=None, state=None, details=None) for row in rows]
        await self._partitions.ensure({month_of(row.ended_at) for row in rows})

        async def add(connection: AsyncConnection[Any]) -> int:
            await connection.execute(_STAGE)
            async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                for row in rows:
                    await copy.write_row([getattr(row, name) for name in COLUMNS])
            added = await connection.execute(_INSERT)
            return added.rowcount

        return await self._database.run(add)

    async def _set_aside(self, message: Ended, error: str) -> None:
        values = (
            self._prefix, message.address, message.stream, message.entry_id, message.ended_ms,
            clean(message.outcome), clean(message.consumer), message.message, message.state, clean(error),
        )  # fmt: skip

        async def add(connection: AsyncConnection[Any]) -> None:
            await connection.execute(_REFUSED, values)

        await self._database.run(add)
