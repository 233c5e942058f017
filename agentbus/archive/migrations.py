"""The archive's tables: numbered SQL files, applied once and in order, however many try at the same time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from agentbus.archive.connection import Database
from agentbus.errors import ConfigurationError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

#: Advisory locks are numbers that all programs on a database share; these are the bytes of "agentbus".
LOCK = int.from_bytes(b"agentbus", "big")

#: The first that attaches partitions without locking readers out.
OLDEST_SERVER = 12

_TABLE = """CREATE TABLE IF NOT EXISTS migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """A digest of the file: one that was applied must not change afterwards."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return the files in order."""
    folder = resources.files("agentbus.archive") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(int(name[:4]), name, (folder / name).read_text(encoding="utf-8")) for name in names]


async def migrate(database: Database, known: list[Migration] | None = None) -> list[str]:
    """Bring the tables up to date; returns the files applied.

    All or nothing, under a lock: several workers may start at once. Raises `ConfigurationError` when a file
    that was applied has another content now, or the server is too old.
    """
    wanted = migrations() if known is None else known

    async def apply(connection: AsyncConnection[Any]) -> list[str]:
        check_version(connection.info.server_version)
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        await _make_schema(connection, database.schema)
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        missing = [each for each in wanted if each.number not in applied]
        for each in wanted:
            _refuse_change(each, applied.get(each.number))
        for each in missing:
            await connection.execute(each.sql.encode())
            await connection.execute(
                "INSERT INTO migrations (number, name, checksum) VALUES (%s, %s, %s)",
                (each.number, each.name, each.checksum),
            )
        return [each.name for each in missing]

    return await database.run(apply)


def check_version(number: int) -> None:
    """Raise `ConfigurationError` for a server that is too old; ``number`` as the driver has it, 150004."""
    if number < OLDEST_SERVER * 10_000:
        raise ConfigurationError(
            f"the archive needs PostgreSQL {OLDEST_SERVER} or newer, and this is {number // 10_000}: older "
            "ones cannot attach a partition while somebody reads"
        )


async def _make_schema(connection: AsyncConnection[Any], schema: str) -> None:
    # Asked first: CREATE SCHEMA needs a right that a user of existing tables may not have.
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
    if await found.fetchone() is None:
        await connection.execute(f'CREATE SCHEMA "{schema}"'.encode())


async def _applied(connection: AsyncConnection[Any]) -> dict[int, str]:
    rows = await connection.execute("SELECT number, checksum FROM migrations")
    return dict(await rows.fetchall())


def _refuse_change(migration: Migration, checksum: str | None) -> None:
    if checksum is not None and checksum != migration.checksum:
        raise ConfigurationError(
            f"the archive's tables were made by another {migration.name} than this agentbus has: a file that "
            "was applied must not change. Restore it and put what is new into a file with the next number"
        )
