"""A server of one process's own: for tests, demos and chaos runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from agentbus.broker.embedded.binary import ServerBinary, find_server
from agentbus.broker.embedded.command import log_tail, server_command
from agentbus.broker.embedded.launch import program_command
from agentbus.broker.embedded.places import temporary_folder
from agentbus.broker.embedded.programs.append_file import cut_torn_end
from agentbus.broker.embedded.programs.server_line import ServerLine, answers
from agentbus.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLIENT_NAME = "agentbus-control"
_POLL_SECONDS = 0.005
_END_SECONDS = 10.0


class PrivateBroker:
    """A server in a folder of its own, on a unix socket, that can be killed, frozen and brought back.

    ``async with PrivateBroker() as broker`` or ``start()`` and ``close()``. The methods block for some
    milliseconds each. When this process ends in whatever way, SIGKILL included, server and folder go:
    a guard process owns both and notices. Should the guard itself be killed, Linux kills the server with
    it; on macOS the server then runs until ``close()``.
    """

    def __init__(
        self,
        binary: ServerBinary | None = None,
        *,
        appendonly: bool = True,
        appendfsync: str = "everysec",
        maxmemory: str | int = 0,
        config: Mapping[str, str] | None = None,
        start_seconds: float = 10.0,
    ) -> None:
        """``maxmemory`` in bytes or as ``"4mb"``, 0 for no limit; ``config`` holds further directives."""
        self._binary = binary
        self._config = {
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            "maxmemory": str(maxmemory),
            **(config or {}),
        }
        self._start_seconds = start_seconds
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_lock = threading.Lock()
        self._pid: int | None = None

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self.start)
        except BaseException:
            await asyncio.to_thread(self.close)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    @property
    def binary(self) -> ServerBinary:
        """The server program in use."""
        if self._binary is None:
            self._binary = find_server()
        return self._binary

    @property
    def folder(self) -> Path:
        """Holds socket, data and log; exists from ``start()`` to ``close()``."""
        if self._folder is None:
            raise BrokerUnavailable("The private broker was not started, or is closed.")
        return self._folder

    @property
    def socket(self) -> Path:
        """The path of the unix socket; the same after each restart."""
        return self.folder / "broker.sock"

    @property
    def url(self) -> str:
        """``unix:///…``; the same after each restart."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def log(self) -> Path:
        """What the server says, of all its starts."""
        return self.folder / "broker.log"

    @property
    def pid(self) -> int:
        """The process of the server, which may have ended."""
        if self._pid is None:
            raise BrokerUnavailable("The private broker was not started, or is closed.")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a frozen one does."""
        # Without a code where no server could be started.
        return self._guard is not None and self._order(do="wait", seconds=0).get("code", 0) is None

    def start(self) -> None:
        """Start the server, on the data of an earlier start if there was one, and wait until it answers."""
        if self._guard is None:
            self._open_folder()
        elif self.running:
            raise BrokerUnavailable("The private broker runs already.")
        data = Path(self._config.get("dir", self.folder / "data"))
        data.mkdir(exist_ok=True)
        try:
            self._start_server(data)
        except BrokerUnavailable:
            # The kill that ended it may have torn the last step in its file, which it then refuses.
            cut = None if self.running else cut_torn_end(str(data))
            if cut is None:
                raise
            with self.log.open("a") as log:
                log.write(f"{cut}\n")
            self._start_server(data)

    def _start_server(self, data: Path) -> None:
        # Left by a server that was killed; the new one would take over the name, but not before a client
        # had been refused there.
        self.socket.unlink(missing_ok=True)
        before = self.log.stat().st_size if self.log.exists() else 0
        command = server_command(self.binary, data, self.socket, self._config)
        answer = self._order(do="start", command=command, log=str(self.log))
        if "error" in answer:
            raise BrokerUnavailable(f"{self.binary} cannot be started: {answer['error']}")
        self._pid = answer["pid"]
        self._wait_until_ready(before)

    def stop(self) -> None:
        """End the server as SIGTERM does: it writes what it has. Data and folder stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL. Data and folder stay."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the server with SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """End the server if it runs, gently, and start it on the same data."""
        if self.running:
            self.stop()
        self.start()

    def flush(self) -> None:
        """Delete every key."""
        with ServerLine(str(self.socket), name=_CLIENT_NAME, timeout=5.0) as line:
            line.ask("FLUSHALL")

    def close(self) -> None:
        """End the server and remove its folder. Can be called twice."""
        guard, self._guard = self._guard, None
        if guard is not None:
            # Leaving the context closes the guard's input, which is its order to go, and waits for it.
            with guard:
                pass
            if guard.returncode != 0:
                self._end_unguarded()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._pid = None

    def _open_folder(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="agentbus-private-", dir=temporary_folder()))
        self._guard = subprocess.Popen(
            program_command("guard", str(self._folder), str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A session of its own: on Ctrl-C this process may still want to end things in its own order.
            start_new_session=True,
            bufsize=0,
        )

    def _wait_until_ready(self, log_start: int) -> None:
        deadline = time.monotonic() + self._start_seconds
        while not answers(str(self.socket), name=_CLIENT_NAME):
            code = self._order(do="wait", seconds=_POLL_SECONDS)["code"]
            if code is None and time.monotonic() < deadline:
                continue
            problem = "did not answer in time" if code is None else f"ended with code {code}"
            tail = log_tail(self.log, since=log_start)
            raise BrokerUnavailable(f"{self.binary} {problem}. The end of its log:\n{tail}")

    def _end(self, end_signal: signal.Signals) -> None:
        self._signal(end_signal)
        if self._order(do="wait", seconds=_END_SECONDS)["code"] is None:
            raise BrokerUnavailable(
                f"The server did not end within {_END_SECONDS:.0f} s of {end_signal.name}."
            )

    def _signal(self, sent: signal.Signals) -> None:
        if not self._order(do="signal", signal=int(sent))["running"]:
            raise BrokerUnavailable(f"The server does not run, so {sent.name} has nobody to reach.")

    def _order(self, **order: Any) -> dict[str, Any]:
        guard = self._guard
        if guard is None or guard.stdin is None or guard.stdout is None:
            raise BrokerUnavailable("The private broker was not started, or is closed.")
        with self._guard_lock:
            try:
                guard.stdin.write(json.dumps(order).encode() + b"\n")
                answer = guard.stdout.readline()
            except OSError:
                answer = b""
        if not answer:
            raise BrokerUnavailable("The private broker's guard process is gone, and its server with it.")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    def _end_unguarded(self) -> None:
        # The guard was killed. Where that does not kill the server, its socket tells whether the process
        # id is still the server's.
        if self._pid is not None and answers(str(self.socket), name=_CLIENT_NAME):
            os.kill(self._pid, signal.SIGKILL)
