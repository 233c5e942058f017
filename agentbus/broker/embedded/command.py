"""The command line that a server is started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agentbus.broker.embedded.binary import ServerBinary

#: Reachable by the user alone, keeps what it accepted, never throws anything away to make room.
_ALWAYS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "logfile": "",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    # A file whose end a kill has torn is refused, and cut by us: see programs/append_file.py.
    "aof-load-truncated": "no",
    "maxmemory-policy": "noeviction",
}


def server_command(
    binary: ServerBinary, data: Path, socket: Path, config: Mapping[str, str] | None = None
) -> list[str]:
    """Put together the server's arguments; ``config`` holds configuration directives and wins."""
    directives = {**_ALWAYS, "dir": str(data), "unixsocket": str(socket), **(config or {})}
    arguments = [str(binary.path)]
    for name, value in directives.items():
        arguments += [f"--{name}", value]
    return arguments


def log_tail(log: Path, *, since: int = 0, lines: int = 15) -> str:
    """The end of a server's log from position ``since`` on, indented, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(since)
            text = stream.read().decode(errors="replace")
    except OSError:
        text = ""
    shown = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"  {line}" for line in shown) or "  (the log is empty)"
