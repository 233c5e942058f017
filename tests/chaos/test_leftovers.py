"""A run that is killed leaves no process and no folder behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_MARK = "AGENTBUS_CHAOS_MARK"

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: finds processes by /proc"),
]


def started(mark: str) -> list[int]:
    """Return the living processes that inherited the mark. A server overwrites its own when it writes its
    title; its guard, which removes the folder after it, does not."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_takes_everything_with_it(end: signal.Signals, tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--only", "recovery"],
        cwd=_ROOT,
        env={**os.environ, _MARK: mark, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with run:
        try:
            # The run, the broker's guard, the nursery, six workers.
            wait_until(lambda: len(started(mark)) >= 9, "the run was in full swing")
            os.kill(run.pid, end)
            run.wait(20)
            wait_until(lambda: not started(mark), "its processes were gone")
            wait_until(lambda: not list(tmp_path.glob("agentbus-*")), "its folders were gone")
        finally:
            run.kill()
