"""Launches the keeper of the shared broker and waits for its answer."""

from __future__ import annotations

import json
import os
import select
import socket as sockets
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from agentbus.broker.embedded import programs
from agentbus.broker.embedded.binary import find_server
from agentbus.broker.embedded.command import log_tail, server_command
from agentbus.broker.embedded.places import Places, socket_path
from agentbus.errors import BrokerUnavailable, ConfigurationError

if TYPE_CHECKING:
    from agentbus.broker.embedded.binary import ServerBinary
    from agentbus.broker.embedded.records import EmbeddedSettings

#: A log longer than this is put aside, once, when the next server starts.
_LONGEST_LOG_BYTES = 1024 * 1024


def program_command(name: str, *arguments: str) -> list[str]:
    """The command that runs one of the programs with this interpreter.

    Without site packages, environment and user folder: it starts in 20 ms, and nothing that happens to
    be installed or set can get in its way.
    """
    if not sys.executable:
        raise ConfigurationError("This Python does not know its own program, so it cannot start a keeper.")
    path = Path(programs.__file__).with_name(f"{name}.py")
    return [sys.executable, "-E", "-s", "-S", str(path), *arguments]


def launch_keeper(settings: EmbeddedSettings, places: Places, deadline: float) -> None:
    """Launch a keeper and return when it has started its server, has found another keeper at work, or
    has not answered by the deadline: then it goes on by itself.

    The caller holds the start lock. Raises ``BrokerUnavailable`` when the server does not start.
    """
    binary = find_server(settings.server)
    _put_long_log_aside(places.log)
    with open(places.log, "ab", opener=_for_the_user_alone) as log:
        before = log.tell()
        keeper = subprocess.Popen(
            program_command("keeper", _plan(settings, places, binary)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # A session of its own: Ctrl-C and the end of a terminal reach only the starter.
            start_new_session=True,
            cwd=places.folder,
            umask=0o077,
        )
    with keeper:
        answer = _read_answer(keeper, deadline)
    if answer.startswith(("ready", "taken", "late")):
        return
    problem = answer.partition("failed: ")[2] or "its keeper ended without a word"
    raise BrokerUnavailable(
        f"The embedded broker ({binary}) did not start: {problem}\n"
        f"The end of {places.log}:\n{log_tail(places.log, since=before)}"
    )


def _plan(settings: EmbeddedSettings, places: Places, binary: ServerBinary) -> str:
    data = places.data(binary.kind, binary.major)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket = socket_path(places, chosen_folder=settings.folder is not None)
    facts = {
        "socket": str(socket),
        "data": str(data),
        "host": sockets.gethostname(),
        **{field: str(value) for field, value in asdict(binary).items()},
    }
    plan = {
        "command": server_command(binary, data, socket, {"pidfile": str(places.pidfile)}),
        "socket": str(socket),
        "idle_seconds": settings.idle_seconds,
        "facts": facts,
    }
    for name in ("log", "state", "pidfile", "keeper_lock", "data_lock", "start_lock"):
        plan[name] = str(getattr(places, name))
    plan["workers"] = [str(path) for path in (places.workers_order, places.workers_state, places.workers_log)]
    return json.dumps(plan)


def _read_answer(keeper: subprocess.Popen[bytes], deadline: float) -> str:
    assert keeper.stdout is not None
    heard = b""
    while not heard.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([keeper.stdout], [], [], left)[0]:
            return "late"
        read = os.read(keeper.stdout.fileno(), 4096)
        if not read:
            break
        heard += read
    return heard.decode(errors="replace").strip()


def _for_the_user_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _put_long_log_aside(log: Path) -> None:
    try:
        if log.stat().st_size > _LONGEST_LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))
    except FileNotFoundError:
        return
