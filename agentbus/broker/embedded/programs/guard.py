"""Program: owns a private server and its folder, and removes both when the process that asked dies.

Reads one JSON object per line on standard input and answers each with one line:
``{"do": "start", "command": [...], "log": "..."}`` → ``{"pid": 1}`` or ``{"error": "..."}``;
``{"do": "signal", "signal": 9}`` → ``{"running": true}``, whether the server lived to get it;
``{"do": "wait", "seconds": 1.5}`` → ``{"code": -9}``, or null while it runs.
The end of standard input is the order to leave. The argument is the folder to remove.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentbus.broker.embedded.programs.server_process import start_server
else:
    from server_process import start_server

#: Seconds between looks at whether the asking process lives. Its death closes our input at once, unless
#: a child that it forked keeps a copy of the pipe.
_PARENT_CHECK_SECONDS = 0.5


class Guard:
    """Carries out orders on one server at a time."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order and return the answer."""
        if order["do"] == "start":
            return self._start(order["command"], order["log"])
        if self._server is None:
            return {"error": "no server was started"}
        if order["do"] == "signal":
            running = self._server.poll() is None
            self._server.send_signal(order["signal"])
            return {"running": running}
        return {"code": self._wait(self._server, order["seconds"])}

    def end(self) -> None:
        """Kill the server if it runs; its data go with it, so nothing is lost by not asking."""
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()

    def _start(self, command: list[str], log: str) -> dict[str, Any]:
        self.end()
        try:
            self._server = start_server(command, log, death_signal=signal.SIGKILL)
        except OSError as error:
            return {"error": str(error)}
        return {"pid": self._server.pid}

    @staticmethod
    def _wait(server: subprocess.Popen[bytes], seconds: float) -> int | None:
        try:
            return server.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def orders(parent: int) -> Iterator[dict[str, Any]]:
    """Yield the orders on standard input until it ends or the asking process is gone."""
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], _PARENT_CHECK_SECONDS)
        if os.getppid() != parent:
            return
        if not readable:
            continue
        read = os.read(0, 65536)
        if not read:
            return
        *lines, pending = (pending + read).split(b"\n")
        yield from (json.loads(line) for line in lines)


def main() -> None:
    """Obey until the asking process leaves, then remove everything."""
    folder, parent = sys.argv[1], int(sys.argv[2])
    guard = Guard()
    try:
        for order in orders(parent):
            answer = json.dumps(guard.obey(order)).encode() + b"\n"
            try:
                os.write(1, answer)
            except BrokenPipeError:
                break
    finally:
        guard.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # A Ctrl-C or a closed terminal is for the asking process; when that ends, so do we.
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    main()
