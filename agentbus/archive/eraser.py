"""Deletes what belongs to a project: the one way in which a row leaves the archive before its partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentbus.archive.connection import Database

if TYPE_CHECKING:
    from psycopg import AsyncConnection

#: Rows of one transaction.
_ROWS = 2_000
#: By the project of the envelope, and by the address for what an older version wrote without one.
_OF_PROJECT = "prefix = %s AND (project = %s OR address = %s)"
_KEY = "ended_at, prefix, address, stream, entry_ms, entry_seq"


class ArchiveEraser:
    """Deletes rows of one deployment. Each call raises `ArchiveError` when it cannot."""

    def __init__(self, database: Database, prefix: str) -> None:
        self._database = database
        self._prefix = prefix

    async def count(self, project: str) -> int:
        """Count the rows of a project."""

        async def work(connection: AsyncConnection[Any]) -> int:
            found = await connection.execute(
                f"SELECT count(*) FROM messages WHERE {_OF_PROJECT}".encode(), self._values(project)
            )
            return int((await found.fetchall())[0][0])

        return await self._database.run(work)

    async def erase(self, project: str) -> int:
        """Delete the rows of a project, some thousands in one transaction; returns how many there were."""

        async def work(connection: AsyncConnection[Any]) -> int:
            found = await connection.execute(
                f"DELETE FROM messages USING (SELECT {_KEY} FROM messages WHERE {_OF_PROJECT} LIMIT {_ROWS}) "
                f"AS gone WHERE {_same_key()}".encode(),
                self._values(project),
            )
            return found.rowcount

        erased = 0
        while (rows := await self._database.run(work)) > 0:
            erased += rows
        return erased + await self._database.run(lambda connection: self._erase_refused(connection, project))

    async def _erase_refused(self, connection: AsyncConnection[Any], project: str) -> int:
        """Delete the rows that were set aside: the envelope is all that is known of them."""
        found = await connection.execute(
            "DELETE FROM refused WHERE prefix = %s AND (address = %s OR position(%s::bytea in raw) > 0)",
            (self._prefix, f"project.{project}", f'"project":"{project}"'.encode()),
        )
        return found.rowcount

    def _values(self, project: str) -> tuple[str, str, str]:
        return self._prefix, project, f"project.{project}"


def _same_key() -> str:
    return " AND ".join(f"messages.{name} = gone.{name}" for name in _KEY.split(", "))
