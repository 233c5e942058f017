"""Processes of ``agentbus`` without their start: forked from one that has loaded everything.

A command that is forked is a process like any other, with its own pipes, folder, environment, signals and
end; what it saves is the third of a second in which an interpreter starts and loads the libraries.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The plugin for pytest, and what is started as a program.
_NO_PART = ("agentbus.testing", "agentbus.broker.embedded.programs")


class Nursery:
    """The process that forks, as the tests hold it: one for each process of theirs."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.cli_nursery", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )
        self._one_order = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """End it: nobody is at the other end of its line any more."""
        self._line.close()
        self._process.wait(10)

    def run(
        self, arguments: Sequence[str], folder: Path, environment: dict[str, str], stdin: str, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `subprocess.run` does."""
        (its_in, feed), (out, its_out), (err, its_err) = (os.pipe() for _ in range(3))
        mine, its = socket.socketpair()
        with self._one_order:
            socket.send_fds(self._line, [b"."], [its_in, its_out, its_err, its.fileno()])
        its.close()
        for number in (its_in, its_out, its_err):
            os.close(number)
        order = {"arguments": list(arguments), "folder": str(folder), "environment": environment}
        with mine, mine.makefile("r") as replies, ThreadPoolExecutor(3) as threads:
            mine.sendall(json.dumps(order).encode() + b"\n")
            pid = int(replies.readline())
            fed = threads.submit(_feed, feed, stdin)
            read = [threads.submit(_read, number) for number in (out, err)]
            try:
                texts = [each.result(timeout=seconds) for each in read]
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), seconds) from None
            fed.result()
            return subprocess.CompletedProcess(list(arguments), int(replies.readline()), *texts)


@cache
def nursery() -> Nursery:
    """Return the nursery of this process, started when the first command is forked."""
    return Nursery()


def _feed(number: int, text: str) -> None:
    try:
        with os.fdopen(number, "w") as pipe:
            pipe.write(text)
    except BrokenPipeError:
        pass  # It did not want it all, as a command that fails at once.


def _read(number: int) -> str:
    with os.fdopen(number) as pipe:
        return pipe.read()


# --- in the process that forks ---


def _load() -> None:
    import agentbus

    for module in pkgutil.walk_packages(agentbus.__path__, "agentbus."):
        if not module.name.startswith(_NO_PART) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("pydantic").TypeAdapter(str)
    # Children neither look through what is here nor copy it.
    gc.freeze()


def _serve(line: socket.socket) -> None:
    """Fork for each order; returns in the child, which then is the command."""
    # Nobody waits for those who wait for a command.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        begun, numbers, _, _ = socket.recv_fds(line, 1, 4)
        if not begun:
            sys.exit()
        if os.fork() == 0:
            line.close()
            return _begin(socket.socket(fileno=numbers.pop()), numbers)
        for number in numbers:
            os.close(number)


def _begin(line: socket.socket, numbers: Sequence[int]) -> None:
    """Fork the command, wait for it and tell how it ended; returns in the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with line, line.makefile("r") as orders:
        order = json.loads(orders.readline())
        pid = os.fork()
        if pid:
            # Whoever reads what it writes would wait for the end of this one too.
            for number in numbers:
                os.close(number)
            line.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    _become(order, numbers)


def _become(order: dict[str, object], numbers: Sequence[int]) -> None:
    for wanted, number in enumerate(numbers):
        os.dup2(number, wanted)
        os.close(number)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    time.tzset()
    os.chdir(str(order["folder"]))
    sys.path[0] = ""
    sys.argv = ["agentbus", *order["arguments"]]  # type: ignore[misc]


if __name__ == "__main__":
    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from agentbus.cli import main

    main()
