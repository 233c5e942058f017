"""One connection to PostgreSQL, made when it is needed, given up when it does not answer.

The only place that sees the driver's errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from agentbus.errors import (
    ArchiveError,
    ArchiveRefused,
    ArchiveTimeout,
    ArchiveUnavailable,
    ConfigurationError,
)

if TYPE_CHECKING:
    from psycopg import AsyncConnection

Result = TypeVar("Result")
#: A transaction's work. It speaks to the database only: nothing else would be watched by the time limit.
Work = Callable[["AsyncConnection[Any]"], Awaitable[Result]]

SCHEMA = "agentbus"
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 30.0
#: Beyond the limit that the server itself keeps: a server that is frozen keeps none.
_GRACE_SECONDS = 5.0
#: Seconds that a connection may wait for locks of others: partitions come and go beside long queries.
_LOCK_SECONDS = 10.0
#: SQLSTATE classes that are about the rows themselves: data, constraints, limits, triggers.
_REFUSALS = ("22", "23", "44", "54", "P0")
_READ_ONLY = "25006"


def driver() -> Any:
    """Return psycopg; raises `ConfigurationError` that says how to get it."""
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise ConfigurationError(
            f"the archive needs psycopg ({error}): pip install agentbus-redis[archive]"
        ) from error


class Database:
    """The archive's database. One transaction at a time."""

    def __init__(
        self, dsn: str, *, schema: str = SCHEMA, statement_seconds: float = STATEMENT_SECONDS
    ) -> None:
        """``dsn`` is a libpq connection string or URL; raises `ConfigurationError` for one that is none."""
        self.schema = schema
        self._dsn = dsn
        self._statement_seconds = statement_seconds
        #: Where it is, for people; without the password.
        self.place = _describe(dsn)
        self._connection: AsyncConnection[Any] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def run(self, work: Work[Result]) -> Result:
        """Do some work in one transaction.

        Raises `ArchiveUnavailable` when there is no answer, `ArchiveRefused` when rows are not taken, else
        `ArchiveError`. After an error, and only after `ArchiveUnavailable` in doubt, nothing was committed.
        """
        async with self._one_at_a_time:
            task = asyncio.create_task(self._transaction(work))
            try:
                done, _ = await asyncio.wait({task}, timeout=self._statement_seconds + _GRACE_SECONDS)
            except asyncio.CancelledError:
                await self._abandon(task)
                raise
            if not done:
                await self._abandon(task)
                raise ArchiveUnavailable(
                    f"{self.place} did not answer within {self._statement_seconds + _GRACE_SECONDS:g} seconds"
                )
            return task.result()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def _transaction(self, work: Work[Result]) -> Result:
        psycopg = driver()
        try:
            connection = await self._connected()
            async with connection.transaction():
                # Settings of the transaction only: a pooler may give the connection to somebody else.
                await connection.execute(
                    "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),"
                    " set_config('search_path', %s, true)",
                    (_ms(self._statement_seconds), _ms(_LOCK_SECONDS), f'"{self.schema}"'),
                )
                return await work(connection)
        except psycopg.Error as error:
            if self._connection is not None and self._connection.broken:
                await self.close()
            raise self._translated(error) from error

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is not None and self._connection.closed:
            self._connection = None
        if self._connection is None:
            # Named statements do not survive poolers that share connections between clients.
            self._connection = await driver().AsyncConnection.connect(
                self._dsn, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_SECONDS,
                application_name="agentbus archive",
            )  # fmt: skip
        return self._connection

    async def _abandon(self, task: asyncio.Task[Any]) -> None:
        """End a transaction that nobody waits for any more.

        Not by cancelling alone: the driver would then ask the server to cancel the statement and wait until
        it has, and a server that is frozen never does.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            task.cancel()
        else:
            _cut(connection)
        _, still = await asyncio.wait({task}, timeout=_GRACE_SECONDS)
        for left in still:
            left.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        if connection is not None:
            await connection.close()

    def _translated(self, error: Any) -> ArchiveError:
        psycopg = driver()
        state = error.sqlstate or ""
        text = f"{self.place}: {str(error).strip()}"
        if state.startswith(_REFUSALS):
            return ArchiveRefused(text)
        if isinstance(error, psycopg.errors.UndefinedTable):
            return ArchiveError(f"{text}. The worker `archive` makes the tables when it starts")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ArchiveError(
                f"{text}. The worker `archive` needs the right to create in the database, or a schema of its "
                f"own named {self.schema}; whoever reads history needs USAGE on it and SELECT on its tables"
            )
        if isinstance(error, psycopg.errors.QueryCanceled):
            return ArchiveTimeout(text)
        if state == _READ_ONLY or isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return ArchiveUnavailable(text)
        return ArchiveError(text)


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


def _cut(connection: AsyncConnection[Any]) -> None:
    """Shut the line down, so that whoever waits for an answer gets an error at once."""
    with (
        contextlib.suppress(OSError, driver().Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def _describe(dsn: str) -> str:
    psycopg = driver()
    conninfo = importlib.import_module("psycopg.conninfo")
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        # The driver's message may quote the string, password and all.
        unknown = re.search(r'invalid (?:connection option|URI query parameter:?) "?(\w+)"?', str(error))
        why = f"it has no option {unknown[1]!r}" if unknown else "it cannot be read"
        raise ConfigurationError(_bad_dsn(why)) from None
    if not parts:
        raise ConfigurationError(_bad_dsn("it is empty"))
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"PostgreSQL {parts.get('user', '')}@{host}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def _bad_dsn(why: str) -> str:
    return (
        f"the archive's connection string: {why}. It looks like "
        "postgresql://user:password@host:5432/database or 'host=… dbname=… user=…'"
    )
