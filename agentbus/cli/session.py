"""What every command does around its work: find the broker, run, turn errors into one line and a code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.errors import (
    AgentBusError,
    ArchiveUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    InvalidTopic,
    InvalidValue,
    NoBroker,
    NoSuchAddress,
    NoSuchAgent,
    NoSuchCursor,
    NoSuchDeadLetter,
    NoSuchMessage,
    NoSuchReceipts,
    NoSuchSchedule,
    NotYourConversation,
    PolicyConflict,
    PublishTimeout,
    RequestTimeout,
    UnsafeBroker,
)
from agentbus.events import Event
from agentbus.message.topics import AGENT, is_channel, parse_address
from agentbus.settings import (
    EMBEDDED_URL,
    BusSettings,
    broker_url,
    default_settings,
    embedded_home,
    embedded_server,
)

OK, FAILURE, USAGE, NOT_FOUND, UNAVAILABLE, TIMEOUT = range(6)
#: Ends by a signal: 128 and its number, as shells report it.
_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM

_NO_BROKER = """no broker. Two ways out:
  - start the embedded one: agentbus up
  - name a Redis or Valkey server: --url redis://localhost:6379, or AGENTBUS_URL in the environment"""

_CODES: tuple[tuple[type[AgentBusError], int], ...] = (
    (InvalidValue, USAGE),
    # What is stored or set at the broker contradicts; any other configuration is that of the command.
    (PolicyConflict, FAILURE),
    (UnsafeBroker, FAILURE),
    (NoSuchAddress, NOT_FOUND),
    (NoSuchAgent, NOT_FOUND),
    (NoSuchDeadLetter, NOT_FOUND),
    (NoSuchReceipts, NOT_FOUND),
    (NotYourConversation, USAGE),
    (NoSuchMessage, NOT_FOUND),
    (NoSuchCursor, NOT_FOUND),
    (NoSuchSchedule, NOT_FOUND),
    (NoBroker, UNAVAILABLE),
    (ConfigurationError, USAGE),
    (BrokerUnavailable, UNAVAILABLE),
    (ArchiveUnavailable, UNAVAILABLE),
    (PublishTimeout, TIMEOUT),
    (RequestTimeout, TIMEOUT),
)

if TYPE_CHECKING:
    from agentbus.broker.embedded import EmbeddedSettings, RunningBroker
    from agentbus.bus import Bus


class Failure(Exception):
    """Ends a command with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    """Tell the person at the terminal; stdout is for what was asked for."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run(main: Callable[[], Awaitable[int | None]]) -> NoReturn:
    """Run a command and exit with its code."""
    raise typer.Exit(run_to_code(main))


def run_to_code(main: Callable[[], Awaitable[int | None]]) -> int:
    """Run a command. Errors become one line on stderr and a code; Ctrl-C and SIGTERM end it cleanly."""
    code: int | None
    try:
        code = asyncio.run(_terminable(main))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`). What is still buffered has nowhere to go, and the
        # interpreter would complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except Failure as failure:
        say(f"agentbus: {failure}")
        code = failure.code
    except AgentBusError as error:
        say(f"agentbus: {explain(error)}")
        code = exit_code(error)
    return code or OK


async def _terminable(main: Callable[[], Awaitable[int | None]]) -> int | None:
    """Let SIGTERM cancel the command, so that it hands back what it holds."""
    task = asyncio.current_task()
    assert task is not None
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await main()
    except asyncio.CancelledError:
        if terminated:
            return _TERMINATED
        raise


def exit_code(error: AgentBusError) -> int:
    """Return the exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILURE)


def explain(error: AgentBusError) -> str:
    """Return an error for people, with what to do about it."""
    if isinstance(error, BrokerUnavailable) and "available" in str(error):
        return f"{str(error).rstrip('.')}. Is it running, and is --url (or AGENTBUS_URL) right?"
    return str(error)


# --- the broker ---


def embedded_settings() -> EmbeddedSettings:
    """Return where the embedded broker of this user is, as the environment says."""
    from agentbus.broker.embedded import EmbeddedSettings

    home = embedded_home()
    return EmbeddedSettings(folder=Path(home) if home else None, server=embedded_server())


async def _find_embedded() -> RunningBroker | None:
    # Only here: who names a broker need not load what starts and finds one.
    from agentbus.broker.embedded import find

    return await find(embedded_settings())


def settings_with(prefix: str | None) -> BusSettings:
    """Return the settings of the environment, with the prefix of the command line if it has one."""
    settings = default_settings()
    return replace(settings, prefix=prefix) if prefix is not None else settings


async def find_url(url: str | None) -> str:
    """Return the URL to use: the one given, AGENTBUS_URL, or the embedded broker that runs.

    Raises `NoBroker` with the ways out. Starts nothing.
    """
    try:
        return broker_url(url)
    except NoBroker:
        running = await _find_embedded()
        if running is None:
            raise NoBroker(_NO_BROKER) from None
        return running.url


@asynccontextmanager
async def open_bus(url: str | None, prefix: str | None, agent: str | None = None) -> AsyncIterator[Bus]:
    """Open a bus whose events are shown on stderr."""
    # Not for the commands that only look: all that a bus can do takes as long to load as they take in all.
    from agentbus.bus import Bus

    bus = Bus(await find_url(url), agent=agent, settings=settings_with(prefix))
    bus.events.listen(_show_event)
    async with bus:
        yield bus


@asynccontextmanager
async def open_broker(url: str | None) -> AsyncIterator[Broker]:
    """Open a connection for looking; it accepts any server, and starts none."""
    found = await find_url(url)
    if found == EMBEDDED_URL:
        running = await _find_embedded()
        if running is None:
            raise NoBroker("the embedded broker does not run; start it with `agentbus up`")
        found = running.url
    broker = Broker(ConnectionSettings(found, client_name="agentbus:cli"))
    try:
        yield broker
    finally:
        await broker.close()


def _show_event(event: Event) -> None:
    place = f" {event.address}:" if event.address else ""
    say(f"note:{place} {event.detail}")


def address_of(name: str) -> str:
    """Return ``agent.<name>`` for a name, and an address as it is."""
    return parse_address(name)


def inbox_of(name: str) -> str:
    """Return ``agent.<name>`` for a name or an inbox; a channel is refused with what to do instead."""
    address = parse_address(name)
    if is_channel(address):
        raise InvalidTopic(
            "name",
            f"{address} is a channel, nobody takes work there; `agentbus tail {address}` shows its messages",
        )
    return address


def agent_of(name: str) -> str:
    """Return the bare name of an agent; any other address is refused with what to do instead."""
    kind, _, bare = inbox_of(name).partition(".")
    if kind != AGENT:
        raise InvalidTopic(
            "name",
            f"{name} is served by agents that have the capability; run one: Agent(..., "
            f"capabilities=[{bare!r}]), `agentbus run module:agent`",
        )
    return bare
