"""Runs the workers of a shared broker as a child of its keeper, and starts them again when they die."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import Any

#: Pauses before a start after a death, in seconds: doubled from the first to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Workers that lived for so long count as healthy: their next death is a first one.
_SETTLED_AFTER = 30.0
#: Seconds that workers get to end what they are doing; every step of theirs may be cut off.
_END_SECONDS = 5.0
#: They say that they can never run like this: no start is tried again.
_USAGE = 2
#: A log longer than this is put aside when workers are started.
_LONGEST_LOG_BYTES = 1024 * 1024


@dataclass(frozen=True)
class WorkerFiles:
    """Where orders come from and where the state goes."""

    #: Written by whoever wants workers, removed when carried out: it holds an environment, and
    #: so perhaps passwords.
    order: str
    #: Written by the keeper, for people and for `agentbus up`.
    state: str
    log: str


class WorkersProcess:
    """One set of workers, or none."""

    def __init__(self, files: WorkerFiles) -> None:
        self._files = files
        self._order: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._log_begins = 0
        self._pause = _FIRST_PAUSE
        self._starts = 0
        self._ended = ""
        #: Whether a set of workers has died since this was last set to False: its connections came and went.
        self.died = False
        for path in (files.order, files.state):
            _remove(path)

    def look(self) -> None:
        """Read orders, notice a death, start what is to be started."""
        ordered = self._read_order()
        if self._process is not None and self._process.poll() is not None:
            self._note_death(self._process.returncode)
        if self._order is not None and self._process is None and time.monotonic() >= self._start_at:
            self._start(self._order)
        if ordered:
            # Only now: whoever ordered takes its absence for the sign that the state is the new one.
            _remove(self._files.order)

    def seconds_to_next_start(self) -> float | None:
        """How long until workers that died are started again; None when there is nothing to start."""
        if self._order is None or self._process is not None:
            return None
        return max(0.0, self._start_at - time.monotonic())

    def end(self) -> None:
        """End them and forget the order."""
        self._order = None
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_input(process)
        _remove(self._files.state)

    def _read_order(self) -> bool:
        try:
            with open(self._files.order) as stream:  # noqa: PTH123 - plain strings here
                order = json.load(stream)
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            order = {}
        if order.get("do") == "end":
            self.end()
        elif order.get("do") == "run" and self._order is None:
            # Only the first order counts: two that want workers share one set.
            self._order, self._pause, self._start_at, self._starts = order, _FIRST_PAUSE, 0.0, 0
            self._ended = ""
        return True

    def _start(self, order: dict[str, Any]) -> None:
        _put_long_log_aside(self._files.log)
        descriptor = os.open(self._files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            self._log_begins = log.tell()
            try:
                # Its input is a pipe that only this process holds open: however we end, the workers notice.
                self._process = subprocess.Popen(
                    order["command"], env=order["environment"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                    umask=0o077,
                )  # fmt: skip
            except OSError as error:
                self._note_end(f"cannot be started: {error}")
                return
        self._starts += 1
        self._started_at = time.monotonic()
        self._write_state()

    def _note_death(self, code: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            _close_input(process)
        self.died = True
        if time.monotonic() - self._started_at > _SETTLED_AFTER:
            self._pause = _FIRST_PAUSE
        ending = f"were killed by signal {-code}" if code < 0 else f"ended with code {code}"
        words = self._last_words()
        if code == _USAGE:
            self._order = None
        self._note_end(f"{ending}: {words}" if words else ending)

    def _note_end(self, why: str) -> None:
        self._ended = why
        self._start_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._write_state()

    def _last_words(self) -> str:
        try:
            with open(self._files.log, "rb") as log:  # noqa: PTH123 - plain strings here
                log.seek(max(self._log_begins, os.fstat(log.fileno()).st_size - 4096))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _write_state(self) -> None:
        state = {
            "pid": None if self._process is None else self._process.pid,
            "starts": self._starts,
            "ended": self._ended,
            "again_in": self.seconds_to_next_start(),
            "log": self._files.log,
        }
        draft = self._files.state + ".new"
        with open(draft, "w") as stream:  # noqa: PTH123 - plain strings here
            json.dump(state, stream)
        os.replace(draft, self._files.state)  # noqa: PTH105 - plain strings here


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _put_long_log_aside(path: str) -> None:
    try:
        if os.stat(path).st_size > _LONGEST_LOG_BYTES:  # noqa: PTH116 - plain strings here
            os.replace(path, path + ".old")  # noqa: PTH105 - plain strings here
    except FileNotFoundError:
        return


def _remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - plain strings here
    except FileNotFoundError:
        return
