"""Reads the archive, page by page, in the order in which messages ended.

That order (the id of the record that tells of the end, then the place in it) is the one in which Redis holds
what is not archived yet, so that one query can go on where the other ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentbus.archive.connection import Database
from agentbus.archive.rows import moment_of
from agentbus.broker.inspection.kept import Point, Window

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_EVERYTHING = Window(None, None, newest_first=True)
_COLUMNS = (
    "address, stream, entry_ms || '-' || entry_seq, ended_ms, ended_seq, ended_index,"
    " outcome, consumer, attempts, raw, state, details"
)
_POINT = "(ended_ms, ended_seq, ended_index)"


@dataclass(frozen=True, slots=True)
class ArchiveQuery:
    """What is asked of the archive; what is None does not restrict."""

    address: str
    window: Window = _EVERYTHING
    #: The whole of it, or ``task.*`` for all that begin so.
    message_type: str | None = None
    sender: str | None = None
    outcome: str | None = None
    #: Lower case text in the body. Letters beyond ASCII are not compared: whoever asks looks at them again.
    contains: str | None = None


@dataclass(frozen=True, slots=True)
class ArchivedMessage:
    """One row."""

    address: str
    stream: str
    entry_id: str
    #: Where it is in the order of history.
    point: Point
    outcome: str
    consumer: str
    attempts: int
    #: The envelope as it travelled; empty for an entry that was no message.
    message: bytes
    #: As the broker kept it, and what else it knew.
    state: dict[str, Any]
    details: dict[str, Any]

    @property
    def ended_ms(self) -> int:
        """When it ended, in ms by the server's clock."""
        return self.point[0]


class ArchiveReader:
    """Reads one deployment's messages. Each call raises `ArchiveUnavailable` or `ArchiveError`."""

    def __init__(self, database: Database, prefix: str) -> None:
        """``prefix`` begins the keys of the deployment: several may share a database."""
        self._database = database
        self._prefix = prefix

    async def page(self, query: ArchiveQuery, limit: int) -> list[ArchivedMessage]:
        """Return up to ``limit`` messages, in the order of the query's window."""
        conditions = _Conditions(self._prefix, query.address)
        conditions.add_window(query.window)
        conditions.add_filters(query)
        direction = "DESC" if query.window.newest_first else "ASC"
        order = ", ".join(f"{name} {direction}" for name in _POINT.strip("()").split(", "))
        sql = f"SELECT {_COLUMNS} FROM messages WHERE {conditions.sql} ORDER BY {order} LIMIT %s"
        return [_message(row) for row in await self._rows(sql, [*conditions.values, limit])]

    async def edge(self, address: str, *, newest: bool) -> Point | None:
        """Return the point of the newest or the oldest message of an address; None when there is none."""
        found = await self.page(ArchiveQuery(address, Window(None, None, newest)), 1)
        return found[0].point if found else None

    async def count(self, address: str, window: Window) -> int:
        """Count the messages of an address in a window."""
        conditions = _Conditions(self._prefix, address)
        conditions.add_window(window)
        rows = await self._rows(f"SELECT count(*) FROM messages WHERE {conditions.sql}", conditions.values)
        return int(rows[0][0])

    async def _rows(self, sql: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        async def read(connection: AsyncConnection[Any]) -> list[Sequence[Any]]:
            found = await connection.execute(sql.encode(), values)
            return list(await found.fetchall())

        return await self._database.run(read)


class _Conditions:
    """What rows must be, with the values."""

    def __init__(self, prefix: str, address: str) -> None:
        self._texts = ["prefix = %s", "address = %s"]
        self.values: list[Any] = [prefix, address]

    @property
    def sql(self) -> str:
        """All of them."""
        return " AND ".join(self._texts)

    def add(self, text: str, *values: Any) -> None:
        """Add one."""
        self._texts.append(text)
        self.values += values

    def add_window(self, window: Window) -> None:
        """Restrict the points; the bounds of `ended_at` leave out whole partitions."""
        for point, sign in ((window.above, ">"), (window.below, "<")):
            if point is not None:
                self.add(f"{_POINT} {sign} (%s, %s, %s)", *point)
                self.add(f"ended_at {sign}= %s", moment_of(point[0]))

    def add_filters(self, query: ArchiveQuery) -> None:
        """Restrict what messages are."""
        if query.message_type is not None and query.message_type.endswith(".*"):
            self.add("starts_with(type, %s)", query.message_type[:-1])
        elif query.message_type is not None:
            self.add("type = %s", query.message_type)
        if query.sender is not None:
            self.add("sender = %s", query.sender)
        if query.outcome is not None:
            self.add("outcome = %s", query.outcome)
        if query.contains is not None:
            # What jsonb cannot hold is looked at by whoever asks.
            self.add("(envelope IS NULL OR lower((envelope -> 'body')::text) LIKE %s)", _like(query.contains))


def _like(text: str) -> str:
    """Return a pattern for a part; what `lower` makes of letters beyond ASCII depends on the database."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{''.join(letter if letter.isascii() else '%' for letter in escaped)}%"


def _message(row: Sequence[Any]) -> ArchivedMessage:
    address, stream, entry_id, ms, seq, index, outcome, consumer, attempts, raw, state, details = row
    return ArchivedMessage(
        address, stream, entry_id, (int(ms), int(seq), index), outcome, consumer, attempts, bytes(raw),
        state if isinstance(state, dict) else {}, details if isinstance(details, dict) else {},
    )  # fmt: skip
