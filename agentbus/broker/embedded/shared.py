"""The one broker that all processes of a user share: found, started when missing, stopped.

Three locks, all dropped by the kernel when their holder dies, so nothing stale can be left behind: the
start lock makes starting and stopping one at a time; the keeper lock says that a keeper lives; the data
lock, inherited by the server, says that somebody may still write the data.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket as sockets
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from agentbus.broker.embedded.attached import end_workers
from agentbus.broker.embedded.command import log_tail
from agentbus.broker.embedded.launch import launch_keeper
from agentbus.broker.embedded.places import Places, open_places
from agentbus.broker.embedded.programs.server_line import ServerLine, ServerSaidNo
from agentbus.broker.embedded.records import BrokerInUse, ConnectedClient, RunningBroker
from agentbus.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentbus.broker.embedded.records import EmbeddedSettings

#: The name of our own connections in the server's list.
CONTROL_NAME = "agentbus-control"
KEEPER_NAME = "agentbus-keeper"
#: Workers are there for others: alone they are no use of the broker.
WORKERS_NAME = "agentbus:workers:"

#: Seconds in which a new connection says its name.
_NAMED_WITHIN = 2.0
_POLL_SECONDS = 0.02


async def ensure_running(settings: EmbeddedSettings) -> RunningBroker:
    """Return the user's broker, started first if it does not run.

    Raises ``NoBroker`` when no server can be found, ``ConfigurationError`` for a folder that is not safe,
    ``BrokerUnavailable`` with the end of the server's log when it does not start in time.
    """
    return await asyncio.to_thread(_ensure_running, settings)


async def find(settings: EmbeddedSettings) -> RunningBroker | None:
    """Return the user's broker if it runs and answers; starts nothing."""
    return await asyncio.to_thread(lambda: _look(open_places(settings.folder)))


async def stop(settings: EmbeddedSettings, *, force: bool = False) -> RunningBroker | None:
    """End the user's broker and return what was ended, or None when none ran. The data stay.

    Raises ``BrokerInUse`` while clients are connected, and ``BrokerUnavailable`` when the server hangs;
    ``force`` ends it in both cases.
    """
    return await asyncio.to_thread(_stop, settings, force)


def _ensure_running(settings: EmbeddedSettings) -> RunningBroker:
    places = open_places(settings.folder)
    deadline = time.monotonic() + settings.start_seconds
    with _start_lock(places, deadline):
        while True:
            # Looking under the lock, because the keeper decides under it that nobody comes any more.
            running = _look(places)
            if running is not None:
                return running
            if time.monotonic() >= deadline:
                raise _not_answering(places)
            launch_keeper(settings, places, deadline)
            time.sleep(_POLL_SECONDS)


def _look(places: Places) -> RunningBroker | None:
    state = _read_state(places)
    if state is None or (sys.platform == "linux" and _is_free(places.keeper_lock)):
        # On Linux a server whose keeper is gone is on its way out, even if it still answers.
        return None
    try:
        with ServerLine(state["socket"], name=CONTROL_NAME, timeout=1.0) as line:
            pid = int(line.info("server")["process_id"])
    except (OSError, ServerSaidNo, KeyError):
        return None
    # Another process id: the keeper is just replacing a crashed server and has not said so yet.
    return _describe(places, state) if pid == state["pid"] else None


def _stop(settings: EmbeddedSettings, force: bool) -> RunningBroker | None:
    places = open_places(settings.folder)
    deadline = time.monotonic() + settings.start_seconds
    with _start_lock(places, deadline):
        state = _read_state(places)
        if state is None or (_is_free(places.keeper_lock) and _is_free(places.data_lock)):
            return None
        if not force:
            _refuse_if_used(state)
        if state.get("host") == sockets.gethostname() and not _is_free(places.keeper_lock):
            end_workers(places, state["keeper_pid"], deadline)
        _end(places, state, deadline)
        return _describe(places, state)


def _refuse_if_used(state: dict[str, Any]) -> None:
    # A connection says its name after it was made: our own workers' newest ones have none for a moment.
    until = time.monotonic() + _NAMED_WITHIN
    while clients := _others_connected(state):
        if any(client.name for client in clients) or time.monotonic() >= until:
            raise BrokerInUse(clients)
        time.sleep(_POLL_SECONDS)


def _others_connected(state: dict[str, Any]) -> tuple[ConnectedClient, ...]:
    try:
        with ServerLine(state["socket"], name=CONTROL_NAME, timeout=1.0) as line:
            return _other_clients(line.ask("CLIENT", "LIST"))
    except (OSError, ServerSaidNo) as error:
        raise BrokerUnavailable(
            f"The broker (process {state['pid']}) does not answer ({error}); only force can end it."
        ) from error


def _other_clients(listing: str) -> tuple[ConnectedClient, ...]:
    clients = []
    for row in listing.splitlines():
        fields = dict(field.partition("=")[::2] for field in row.split(" "))
        name = fields.get("name", "")
        if name not in (CONTROL_NAME, KEEPER_NAME) and not name.startswith(WORKERS_NAME):
            clients.append(ConnectedClient(name, fields.get("addr", ""), int(fields.get("age", 0))))
    return tuple(clients)


def _end(places: Places, state: dict[str, Any], deadline: float) -> None:
    ordered = _order_shutdown(state)
    if not ordered and state.get("host") != sockets.gethostname():
        # The process ids mean something on that machine only.
        raise _not_answering(places)
    while not (_is_free(places.keeper_lock) and _is_free(places.data_lock)):
        if time.monotonic() >= deadline:
            raise BrokerUnavailable(f"The broker of {places.folder} did not end in time; see {places.log}.")
        newer = _read_state(places)
        if newer is not None and newer["pid"] != state["pid"]:
            # Another server on the same data: of a keeper that came late, launched by a starter that was
            # killed, or in place of one that crashed when it was to end.
            state, ordered = newer, _order_shutdown(newer)
        elif not ordered:
            _end_holders(places, state)
        time.sleep(_POLL_SECONDS)


def _order_shutdown(state: dict[str, Any]) -> bool:
    try:
        with ServerLine(state["socket"], name=CONTROL_NAME, timeout=1.0) as line:
            line.ask("SHUTDOWN")
    except ConnectionResetError:
        return True  # it hung up, as ordered; its keeper sees a clean end and leaves
    except (OSError, ServerSaidNo):
        return False
    return False


def _end_holders(places: Places, state: dict[str, Any]) -> None:
    # A lock that is held proves that the process which wrote down its id lives. A keeper asks its server
    # to end and kills it if it hangs; a server that has lost its keeper can only be killed.
    with suppress(ProcessLookupError, ValueError):
        if _is_free(places.keeper_lock):
            os.kill(state["pid"], signal.SIGKILL)
        else:
            os.kill(int(places.keeper_lock.read_text()), signal.SIGTERM)


def _read_state(places: Places) -> dict[str, Any] | None:
    try:
        state = json.loads(places.state.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _not_answering(places: Places) -> BrokerUnavailable:
    state = _read_state(places)
    if state is None:
        return BrokerUnavailable(
            f"The broker of {places.folder} is not ready yet and goes on starting: large data take long to "
            f"load. The end of {places.log}:\n{log_tail(places.log)}"
        )
    host = state.get("host", "an unknown host")
    return BrokerUnavailable(
        f"The broker of {places.folder} runs (on {host}, process {state.get('pid', 'unknown')}) "
        f"but does not answer; see {places.log}."
    )


def _describe(places: Places, state: dict[str, Any]) -> RunningBroker:
    return RunningBroker(
        url=f"unix://{quote(state['socket'])}",
        pid=state["pid"],
        keeper_pid=state["keeper_pid"],
        kind=state["kind"],
        version=state["version"],
        folder=places.folder,
        data=Path(state["data"]),
        socket=Path(state["socket"]),
        log=places.log,
        pidfile=places.pidfile,
    )


@contextmanager
def _start_lock(places: Places, deadline: float) -> Iterator[None]:
    with _open_lock(places.start_lock) as stream:
        while not _try_lock(stream, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise BrokerUnavailable(
                    f"Another process has been starting or stopping the broker of {places.folder} for long."
                )
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            # Said aloud: a child forked meanwhile holds a copy of the descriptor, and with it the lock.
            fcntl.flock(stream.fileno(), fcntl.LOCK_UN)


def _is_free(lock: Path) -> bool:
    # Shared, so that two who only look do not see each other.
    with _open_lock(lock) as stream:
        return _try_lock(stream, fcntl.LOCK_SH)


def _open_lock(lock: Path) -> BinaryIO:
    # Readable by the user alone: whoever can open it can hold it.
    return os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")


def _try_lock(stream: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(stream.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
