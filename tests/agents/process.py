"""Starts agent programs, and reads what they wrote."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.agents.look import Look
from tests.agents.waiting import eventually

_ROOT = Path(__file__).parents[2]


class AgentProcess:
    """One running agent program."""

    def __init__(self, log: Path, options: dict[str, Any], command: list[str] | None = None) -> None:
        self.log = log
        program = command or [sys.executable, "-m", "tests.agents.program"]
        self._process = subprocess.Popen(
            [*program, json.dumps({**options, "log": str(log)})],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    @property
    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    async def wait(self, within: float = 15.0) -> int:
        """Wait for its end; return the exit code."""
        await eventually(lambda: self.ended is not None, within)
        return self._process.returncode

    def lines(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """What this process wrote."""
        return read_log(self.log, event, pid=self.pid, **fields)

    async def joined(self, look: Look, within: float = 15.0) -> str:
        """Wait until it serves; return its consumer name."""

        async def name() -> str | None:
            beats = await look.alive()
            # A beat that has moved: groups exist and the heart beats.
            mine = [each for each, beat in beats.items() if f".{self.pid}." in each and beat[0] != "0"]
            return mine[0] if mine else None

        found = await eventually(name, within)
        assert found is not None
        return found

    def close(self) -> None:
        """End it whatever its state."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                self.thaw()
            self.kill()


def read_log(path: Path, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
    """The lines of a log, of all processes that wrote to it."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        line
        for line in lines
        if (event is None or line["event"] == event)
        and all(line.get(name) == value for name, value in fields.items())
    ]


class Fleet:
    """Agent programs of one test with one log."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.processes: list[AgentProcess] = []

    def start(self, name: str, **options: Any) -> AgentProcess:
        process = AgentProcess(self.log, {"url": self.url, "name": name, **options})
        self.processes.append(process)
        return process

    def lines(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        return read_log(self.log, event, **fields)

    def close(self) -> None:
        for process in self.processes:
            process.close()


@contextlib.contextmanager
def fleet(url: str, folder: Path) -> Iterator[Fleet]:
    """Agent programs that end with the block."""
    started = Fleet(url, folder / "agents.log")
    try:
        yield started
    finally:
        started.close()
