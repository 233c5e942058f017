"""Runs ``agentbus`` as a user does: as a process of its own, with pipes, signals and exit codes.

The first call of each command in a process of tests starts an interpreter, as a shell does; those after it
are forked from one that has loaded everything, see `cli_nursery`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.cli_nursery import nursery

ROOT = Path(__file__).parents[2]
_SECONDS = 30.0
#: What would lead a command to another broker than the test's.
_FOREIGN = ("AGENTBUS_URL", "AGENTBUS_PREFIX", "AGENTBUS_AGENT", "AGENTBUS_HOME")

Finished = subprocess.CompletedProcess[str]
#: Commands that this process of tests has started with an interpreter of their own.
_started: set[str] = set()


class CommandLine:
    """The command line in one folder and environment."""

    def __init__(self, folder: Path, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        self.folder = folder
        self.environment = {
            **kept, "PYTHONPATH": str(ROOT), "AGENTBUS_HOME": str(folder / "home"), **environment,
        }  # fmt: skip

    def __call__(self, *arguments: str, stdin: str = "") -> Finished:
        """Run a command to its end."""
        name = next((each for each in arguments if not each.startswith("-")), "")
        if name in _started:
            return nursery().run(arguments, self.folder, self.environment, stdin, _SECONDS)
        _started.add(name)
        return subprocess.run(
            [sys.executable, "-m", "agentbus.cli", *arguments],
            cwd=self.folder, env=self.environment, input=stdin, capture_output=True, text=True,
            timeout=_SECONDS, check=False,
        )  # fmt: skip

    def records(self, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
        """Run a command that must succeed and return the JSON lines it wrote."""
        finished = self(*arguments, stdin=stdin)
        assert finished.returncode == 0, finished.stderr
        return [json.loads(line) for line in finished.stdout.splitlines()]

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command, in a process group of its own as a terminal would, and end it with the block."""
        process = subprocess.Popen(
            [sys.executable, "-m", "agentbus.cli", *arguments],
            cwd=self.folder, env=self.environment, text=True, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=_SECONDS)


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Press Ctrl-C: the whole foreground group gets it. Returns exit code, stdout and stderr."""
    os.killpg(process.pid, signal.SIGINT)
    return end(process)


def terminate(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Send SIGTERM to the one process. Returns exit code, stdout and stderr."""
    process.send_signal(signal.SIGTERM)
    return end(process)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end."""
    out, err = process.communicate(timeout=_SECONDS)
    return process.returncode, out, err


def wait_for(check: Callable[[], Any], within: float = 20.0) -> Any:
    """Return the first true value of ``check``."""
    deadline = time.monotonic() + within
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s; last seen: {found!r}"
        time.sleep(0.05)
