"""Reads the archive, page by page, in the order in which entries came into their streams.

That order (time and number of the entry id, then the name of the stream) is the one in which Redis holds
what is not archived yet, so that one query can go on where the other ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from agentbus.archive.connection import Database

if TYPE_CHECKING:
    from psycopg import AsyncConnection

#: An entry's time may be later than its end when a server's clock was set back in between.
_CLOCK_MARGIN_SECONDS = 86_400


class Place(NamedTuple):
    """Where an entry is in the order of history; compares as the archive sorts."""

    entry_ms: int
    entry_seq: int
    stream: str


@dataclass(frozen=True, slots=True)
class ArchiveQuery:
    """What is asked of the archive; what is None does not restrict."""

    address: str
    #: Time of the entry in ms: from this on, and before that.
    since_ms: int | None = None
    until_ms: int | None = None
    message_type: str | None = None
    sender: str | None = None
    #: Bytes that the envelope's JSON text contains.
    contains: bytes | None = None
    newest_first: bool = True


@dataclass(frozen=True, slots=True)
class ArchivedMessage:
    """One row."""

    address: str
    stream: str
    entry_id: str
    ended_ms: int
    outcome: str
    consumer: str
    attempts: int
    #: The envelope as it travelled; empty for an entry that was no message.
    message: bytes
    #: As the broker kept it, and what else it knew.
    state: dict[str, Any]
    details: dict[str, Any]

    @property
    def place(self) -> Place:
        """Where it is in the order of history."""
        time, _, number = self.entry_id.partition("-")
        return Place(int(time), int(number), self.stream)


class ArchiveReader:
    """Reads one deployment's messages."""

    def __init__(self, database: Database, prefix: str) -> None:
        """``prefix`` begins the keys of the deployment: several may share a database."""
        self._database = database
        self._prefix = prefix

    async def page(
        self, query: ArchiveQuery, limit: int, after: Place | None = None
    ) -> list[ArchivedMessage]:
        """Return up to ``limit`` messages that come after a place, in the order of the query.

        Raises `ArchiveUnavailable` or `ArchiveError`.
        """
        sql, parameters = _statement(self._prefix, query, limit, after)

        async def read(connection: AsyncConnection[Any]) -> list[ArchivedMessage]:
            rows = await connection.execute(sql.encode(), parameters)
            return [_message(row) for row in await rows.fetchall()]

        return await self._database.run(read)


def _statement(
    prefix: str, query: ArchiveQuery, limit: int, after: Place | None
) -> tuple[str, Sequence[Any]]:
    conditions: list[tuple[str, Any]] = [("prefix = %s", prefix), ("address = %s", query.address)]
    if query.since_ms is not None:
        conditions.append(("entry_ms >= %s", query.since_ms))
        # Leaves out whole partitions.
        begin = max(0.0, query.since_ms / 1000 - _CLOCK_MARGIN_SECONDS)
        conditions.append(("ended_at >= %s", datetime.fromtimestamp(min(begin, 253e9), UTC)))
    if query.until_ms is not None:
        conditions.append(("entry_ms < %s", query.until_ms))
    if query.message_type is not None:
        conditions.append(("type = %s", query.message_type))
    if query.sender is not None:
        conditions.append(("sender = %s", query.sender))
    if query.contains is not None:
        conditions.append(("position(%s::bytea in raw) > 0", query.contains))
    sign, direction = ("<", "DESC") if query.newest_first else (">", "ASC")
    where = " AND ".join(text for text, _ in conditions)
    parameters = [value for _, value in conditions]
    if after is not None:
        where += f" AND (entry_ms, entry_seq, stream) {sign} (%s, %s, %s)"
        parameters += list(after)
    return (
        "SELECT address, stream, entry_ms || '-' || entry_seq, (extract(epoch FROM ended_at) * 1000)::bigint,"
        f" outcome, consumer, attempts, raw, state, details FROM messages WHERE {where}"
        f" ORDER BY entry_ms {direction}, entry_seq {direction}, stream {direction} LIMIT %s",
        [*parameters, limit],
    )


def _message(row: Sequence[Any]) -> ArchivedMessage:
    address, stream, entry_id, ended_ms, outcome, consumer, attempts, raw, state, details = row
    return ArchivedMessage(
        address, stream, entry_id, int(ended_ms), outcome, consumer, attempts, bytes(raw),
        state if isinstance(state, dict) else {}, details if isinstance(details, dict) else {},
    )  # fmt: skip
