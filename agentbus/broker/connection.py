"""Connections to the broker. The only module that knows the driver and its errors.

A `Link` is one connection with one user at a time and its own reply deadline. `Broker` keeps a small pool
of links for commands and opens separate ones for reads that block. Nothing here repeats a command: a write
whose reply was lost may have happened, and only its caller knows how to ask again.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import hiredis
import redis.exceptions as driver
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry as DriverRetry
from redis.backoff import NoBackoff

from agentbus.broker.gathering import Gathering
from agentbus.errors import (
    BrokerError,
    BrokerOutOfMemory,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    GroupMissing,
    WrongKeyType,
)

#: What may travel as an argument of a command.
Argument = str | bytes | int | float

SCHEMES = ("redis", "rediss", "unix")
#: Answers that mean "not now": the command was not executed and may be sent again.
_TRANSIENT: Final = (
    "LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "MISCONF", "NOREPLICAS",
    "BUSY ", "UNKILLABLE",
)  # fmt: skip
_PASSWORD: Final = re.compile(r"(?<=://)([^:@/]*:)[^@]*@")
_QUERY_PASSWORD: Final = re.compile(r"([?&]\w*password=)[^&]*")
_TRANSIENT_TYPES: Final = (
    driver.ConnectionError,
    driver.TimeoutError,
    driver.ReadOnlyError,
    driver.TryAgainError,
    driver.ClusterDownError,
    driver.MasterDownError,
)


class LoginRefused(BrokerRefused):
    """User or password are wrong, or needed and not given."""


class ScriptMissing(BrokerRefused):
    """The server does not know this script: it was restarted or is new."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How to reach the broker."""

    #: ``redis://``, ``rediss://`` or ``unix://``, with user and password if needed.
    url: str
    #: Shown by CLIENT LIST, which is where people look first.
    client_name: str = "agentbus"
    #: Seconds until a command without an answer counts as lost.
    command_timeout: float = 5.0
    #: Seconds.
    connect_timeout: float = 5.0
    #: Links in the command pool; a caller beyond that waits for one.
    most_links: int = 16

    def __repr__(self) -> str:
        return f"ConnectionSettings(url={masked(self.url)!r}, client_name={self.client_name!r})"


def _packed(arguments: tuple[Argument, ...]) -> bytes:
    """Return a command as it travels. In C: the driver's asyncio connection packs in Python, argument by
    argument, which was a third of the time of a small publish."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]
    return packed


def _answer(replies: Sequence[Any]) -> Any:
    """Return the one reply; raises it where the command was refused."""
    (reply,) = replies
    if isinstance(reply, BrokerError):
        raise reply
    return reply


def masked(url: str) -> str:
    """Return a URL that can be shown: without its password."""
    return _QUERY_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


def map_error(error: BaseException, sent: bool = True) -> BrokerError:
    """Return our error for one of the driver's; ``sent`` tells whether the command had left."""
    if isinstance(error.__cause__, driver.AuthenticationError | driver.AuthorizationError):
        # While connecting the driver wraps it, as if trying again could help.
        error = error.__cause__
    text = str(error) or type(error).__name__
    if isinstance(error, driver.NoScriptError):
        return ScriptMissing(text)
    if isinstance(error, driver.OutOfMemoryError) or text.startswith("OOM"):
        return BrokerOutOfMemory(f"the broker is at its memory limit: {text}")
    if isinstance(error, driver.AuthenticationError | driver.AuthorizationError):
        return LoginRefused(f"the broker refused the login: {text}")
    if isinstance(error, driver.NoPermissionError):
        return BrokerRefused(f"the broker's access rules forbid this: {text}")
    if isinstance(error, driver.ResponseError | driver.ClusterError) and text.startswith("NOGROUP"):
        return GroupMissing(text)
    if text.startswith("WRONGTYPE"):
        return WrongKeyType(text)
    if text.startswith(_TRANSIENT):
        return BrokerUnavailable(f"the broker is not available: {text}")
    if isinstance(error, (*_TRANSIENT_TYPES, OSError, TimeoutError)):
        answered = isinstance(error, driver.ResponseError | driver.BusyLoadingError)
        return BrokerUnavailable(f"the broker is not available: {text}", uncertain=sent and not answered)
    return BrokerRefused(text)


#: Seconds without a command after which a link looks whether it is still open.
_LOOK_AFTER = 0.5


class Link:
    """One connection, used by one task at a time; reconnects on its next use after an error."""

    def __init__(self, connection: AbstractConnection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._process = os.getpid()
        self._used_at = time.monotonic()
        #: How many connections this link has had: what the server knows of one of them (its client id) is not
        #: true of the next.
        self.opened = 0

    @property
    def connected(self) -> bool:
        """Whether the connection is open as far as this side knows."""
        return bool(self._connection.is_connected)

    async def execute(self, *arguments: Argument, timeout: float | None = None) -> Any:
        """Send one command and return its reply, undecoded.

        ``timeout`` is in seconds. Raises a `BrokerError`; after an ``uncertain`` `BrokerUnavailable` the
        command may or may not have been executed.
        """
        return _answer(await self.exchange((_packed(arguments),), timeout))

    async def pipeline(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> list[Any]:
        """Send several commands in one write; a command that was refused has its `BrokerError` as reply.

        ``timeout`` is in seconds.
        """
        return await self.exchange([_packed(command) for command in commands], timeout)

    async def exchange(self, packed: Sequence[bytes], timeout: float | None = None) -> list[Any]:
        """Send packed commands in one write, and return their replies; see `pipeline`."""
        await self._drop_if_closed()
        sent = self._connection.is_connected
        try:
            # One deadline for connecting, writing and reading: a stopped server stalls any of them.
            async with asyncio.timeout(timeout or self._timeout):
                if not sent:
                    await self._open()
                    sent = True
                await self._send(b"".join(packed))
                return [await self._reply() for _ in packed]
        except (driver.RedisError, OSError, TimeoutError) as error:
            raise map_error(error, sent) from error

    async def _reply(self) -> Any:
        """Return the next reply; of a command that was refused, the error."""
        try:
            return await self._connection.read_response()
        except driver.ResponseError as error:
            refused = map_error(error)
            refused.__cause__ = error
            return refused

    async def _open(self) -> None:
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self.opened += 1

    async def _drop_if_closed(self) -> None:
        """Notice, after a pause, that the server has closed the connection.

        Servers close idle ones (`timeout` in redis.conf, minutes at many hosts). Found out by the next
        command, that would look like an outage to whoever does not repeat it.
        """
        now = time.monotonic()
        paused, self._used_at = now - self._used_at > _LOOK_AFTER, now
        if paused and self._connection.is_connected:
            try:
                closed = await self._connection.can_read()
            except (driver.RedisError, OSError):
                closed = True
            if closed:
                await self.close()

    async def _send(self, packed: bytes) -> None:
        await self._connection.send_packed_command(packed, check_health=False)

    async def send(self, *arguments: Argument) -> None:
        """Send a command whose replies are read with `read` (SUBSCRIBE)."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(_packed(arguments))
        except (driver.RedisError, OSError, TimeoutError) as error:
            raise map_error(error) from error

    async def read(self, timeout: float | None) -> Any:
        """Return the next reply or pushed message; None when nothing came within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._connection.read_response(disconnect_on_error=False)
        except TimeoutError:
            return None
        except (driver.RedisError, OSError) as error:
            raise map_error(error) from error

    async def close(self) -> None:
        """Close the connection; a later use opens it again."""
        # After a fork it belongs to the parent, whose event loop shares its table of watched sockets with
        # this process: closing here would make the parent deaf on its own connection.
        if self._process == os.getpid():
            await self._connection.disconnect(nowait=True)


class Broker:
    """The way to one server: a pool of links for commands, and further links on demand."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._pool = _driver_pool(settings)
        self._idle: list[Link] = []
        self._inherited: list[Link] = []
        self._process = os.getpid()
        self._slots = asyncio.Semaphore(settings.most_links)
        self._gathering = Gathering(self._slots, self._exchange)

    def open_link(self, timeout: float | None = None) -> Link:
        """Return a link of its own, for reads that block or bulk that must not delay others."""
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return Link(connection, timeout or self.settings.command_timeout)

    async def execute(self, *arguments: Argument) -> Any:
        """Send one command over the pool and return its reply."""
        packed = _packed(arguments)
        if self._gathering.leaves_alone(packed):
            async with self._slots:
                return _answer(await self._exchange((packed,)))
        return await self._gathering.add(packed)

    async def pipeline(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Send several commands in one write over the pool."""
        async with self._slots:
            return await self._exchange([_packed(command) for command in commands])

    async def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        """Send something over a pooled link; whoever calls this has a slot."""
        link = self._idle.pop() if self._idle else self.open_link()
        try:
            return await link.exchange(packed)
        finally:
            self._give_back(link)

    def _give_back(self, link: Link) -> None:
        # A link that could not connect must not hide the good ones below it: where the server's limit is
        # reached by our own idle links, it would be tried, and refused, for ever.
        if link.connected:
            self._idle.append(link)

    def forget_links(self) -> None:
        """Abandon the pooled links without closing them: after a fork they belong to the parent."""
        self._keep_inherited()
        self._idle = []
        self._slots = asyncio.Semaphore(self.settings.most_links)
        self._gathering = Gathering(self._slots, self._exchange)

    def _keep_inherited(self) -> None:
        if self._process != os.getpid():
            # Kept, or the garbage collector would close them, and the parent would become deaf on them.
            self._inherited += self._idle
            self._idle = []
            self._process = os.getpid()

    async def close(self) -> None:
        """Close every pooled connection."""
        self._keep_inherited()
        await self._gathering.close()
        while self._idle:
            await self._idle.pop().close()


def _driver_pool(settings: ConnectionSettings) -> ConnectionPool:
    if settings.url.partition("://")[0] not in SCHEMES:
        raise ConfigurationError(
            f"url: {masked(settings.url)!r} is not a broker URL; use redis://host:6379, rediss://host:6379 "
            "or unix:///path/to/socket"
        )
    try:
        pool = ConnectionPool.from_url(settings.url)
        # Set afterwards: in the driver the URL's own options win over arguments.
        pool.connection_kwargs.update(
            # Deadlines are ours (see Link.execute): the driver's cost a task for every write.
            socket_timeout=None,
            socket_connect_timeout=settings.connect_timeout,
            # The driver's default repeats a write up to ten times: one XADD became five entries.
            retry=DriverRetry(NoBackoff(), 0),
            # One shape of replies on every server and every version of the driver.
            protocol=2,
            decode_responses=False,
            client_name=settings.client_name,
            health_check_interval=0,
        )
        # The driver looks at the URL's options only now.
        pool.make_connection()  # type: ignore[no-untyped-call]
        return pool
    except (ValueError, TypeError, AttributeError, driver.RedisError) as error:
        raise ConfigurationError(f"url: {masked(settings.url)!r}: {error}") from error
