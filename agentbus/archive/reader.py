"""Reads the archive, page by page, in the order in which messages ended.

That order (the id of the record that tells of the end, then the place in it) is the one in which Redis holds
what is not archived yet, so that one query can go on where the other ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentbus.archive.connection import Database
from agentbus.archive.rows import LONGEST_INDEXED, clean, moment_of
from agentbus.broker.inspection.kept import Point, Window
from agentbus.errors import ArchiveTimeout

if TYPE_CHECKING:
    from psycopg import AsyncConnection

#: Rows that one statement with a filter looks through, and how long it may take.
_MOST_ROWS, _LEAST_ROWS = 20_000, 20
_FILTER_SECONDS = 5.0
#: What stands the same in the text of a jsonb value: words, and digits that are no part of an exponent.
#: Letters beyond ASCII do not, because what `lower` makes of them depends on the database.
_WORDS = re.compile(r"[a-z]{2,}|(?<![-+.\de])\d{2,}(?![.\de])")
#: All that JSON writes in letters outside of strings.
_LITERALS = ("true", "false", "null")
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
    #: Lower case text in the body. Only the words in it are compared, because jsonb has its own order of keys
    #: and way to write numbers: too many are found, and whoever asks looks at the whole text again.
    contains: str | None = None
    correlation_id: str | None = None

    @property
    def filters(self) -> bool:
        """Whether anything but the window restricts it."""
        asked = (self.message_type, self.sender, self.outcome, self.contains, self.correlation_id)
        return any(each is not None for each in asked)


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


@dataclass(frozen=True, slots=True)
class Part:
    """Some messages of a window that match."""

    messages: Sequence[ArchivedMessage]
    #: Reading goes on after this point; None: there is nothing more this way.
    resume: Point | None


class ArchiveReader:
    """Reads one deployment's messages. Each call raises `ArchiveUnavailable` or `ArchiveError`."""

    def __init__(self, database: Database, prefix: str) -> None:
        """``prefix`` begins the keys of the deployment: several may share a database."""
        self._database = database
        self._prefix = prefix
        #: Rows that one statement looks through for a filter.
        self._rows_at_once = _MOST_ROWS

    async def part(self, query: ArchiveQuery, limit: int) -> Part:
        """Return up to ``limit`` messages, and where to go on: a filter that few match ends before the window
        does, so that no statement looks through millions of rows.

        Raises `ArchiveTimeout` when even a few rows take too long.
        """
        if not query.filters:
            found = await self.page(query, limit)
            return Part(found, found[-1].point if len(found) == limit else None)
        while True:
            try:
                part = await self._filtered(query, limit)
            except ArchiveTimeout:
                if self._rows_at_once <= _LEAST_ROWS:
                    raise
                # Long bodies: fewer of them at once.
                self._rows_at_once = max(_LEAST_ROWS, self._rows_at_once // 10)
            else:
                self._rows_at_once = min(_MOST_ROWS, 2 * self._rows_at_once)
                return part

    async def _filtered(self, query: ArchiveQuery, limit: int) -> Part:
        last = await self._last_of(query, self._rows_at_once)
        conditions = _Conditions(self._prefix, query.address)
        conditions.add_window(query.window)
        if last is not None:
            conditions.add_last(last, query.window.newest_first)
        conditions.add_filters(query)
        found = await self._messages(conditions, query.window, limit, _FILTER_SECONDS)
        return Part(found, found[-1].point if len(found) == limit else last)

    async def _last_of(self, query: ArchiveQuery, rows: int) -> Point | None:
        """Return the point of the last of the next so many rows; None when there are fewer."""
        conditions = _Conditions(self._prefix, query.address)
        conditions.add_window(query.window)
        sql = (
            f"SELECT ended_ms, ended_seq, ended_index FROM messages WHERE {conditions.sql} "
            f"ORDER BY {_order(query.window)} OFFSET %s LIMIT 1"
        )
        found = await self._rows(sql, [*conditions.values, rows - 1])
        return None if not found else (int(found[0][0]), int(found[0][1]), found[0][2])

    async def page(self, query: ArchiveQuery, limit: int) -> list[ArchivedMessage]:
        """Return up to ``limit`` messages, in the order of the query's window."""
        conditions = _Conditions(self._prefix, query.address)
        conditions.add_window(query.window)
        conditions.add_filters(query)
        return await self._messages(conditions, query.window, limit)

    async def conversation(self, correlation_id: str, limit: int) -> list[ArchivedMessage]:
        """Return up to ``limit`` messages with a correlation id, and the one with this message id."""
        sql = (
            f"SELECT {_COLUMNS} FROM messages WHERE prefix = %s AND (correlation_id = %s OR message_id = %s) "
            f"ORDER BY {_order(_EVERYTHING)} LIMIT %s"
        )
        values = [self._prefix, correlation_id, correlation_id, limit]
        return [_message(row) for row in await self._rows(sql, values)]

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

    async def _messages(
        self, conditions: _Conditions, window: Window, limit: int, seconds: float | None = None
    ) -> list[ArchivedMessage]:
        sql = f"SELECT {_COLUMNS} FROM messages WHERE {conditions.sql} ORDER BY {_order(window)} LIMIT %s"
        return [_message(row) for row in await self._rows(sql, [*conditions.values, limit], seconds)]

    async def _rows(
        self, sql: str, values: Sequence[Any], seconds: float | None = None
    ) -> list[Sequence[Any]]:
        async def read(connection: AsyncConnection[Any]) -> list[Sequence[Any]]:
            if seconds is not None:
                limit = str(round(seconds * 1000))
                await connection.execute("SELECT set_config('statement_timeout', %s, true)", (limit,))
            found = await connection.execute(sql.encode(), values)
            return list(await found.fetchall())

        return await self._database.run(read)


def _order(window: Window) -> str:
    direction = "DESC" if window.newest_first else "ASC"
    return ", ".join(f"{name} {direction}" for name in _POINT.strip("()").split(", "))


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

    def add_last(self, last: Point, newest_first: bool) -> None:
        """End the window with a point that still belongs to it."""
        sign = ">=" if newest_first else "<="
        self.add(f"{_POINT} {sign} (%s, %s, %s)", *last)
        self.add(f"ended_at {sign} %s", moment_of(last[0]))

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
        if query.correlation_id is not None:
            self.add("correlation_id = %s", clean(query.correlation_id)[:LONGEST_INDEXED])
        if query.contains is not None:
            # What jsonb cannot hold is looked at by whoever asks.
            self.add(
                "(envelope IS NULL OR lower((envelope -> 'body')::text) LIKE ALL (%s))",
                _patterns(query.contains),
            )


def _patterns(text: str) -> list[str]:
    """Return what the text of a jsonb value is like where it holds a text; others may be like that, too."""
    words = _WORDS.findall(text)
    outside = all(any(word in literal for literal in _LITERALS) for word in words if not word.isdigit())
    if '"' in text or outside:
        return [f"%{word}%" for word in words]
    # Within one string, which stands the same in both.
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return [f"%{''.join(letter if letter.isascii() else '%' for letter in escaped)}%"]


def _message(row: Sequence[Any]) -> ArchivedMessage:
    address, stream, entry_id, ms, seq, index, outcome, consumer, attempts, raw, state, details = row
    return ArchivedMessage(
        address, stream, entry_id, (int(ms), int(seq), index), outcome, consumer, attempts, bytes(raw),
        state if isinstance(state, dict) else {}, details if isinstance(details, dict) else {},
    )  # fmt: skip
