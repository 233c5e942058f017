"""The demo as people run it, on a part of the library: its count is true, and its end is clean."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentbus.broker.embedded import ServerBinary

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

_SECONDS = 50.0


class Demo:
    """One running demo. Its processes are found by a mark in their environment, which all inherit."""

    def __init__(self, server: Path, *arguments: str) -> None:
        self.mark = f"demo-{secrets.token_hex(8)}"
        environment = {**os.environ, "AGENTBUS_SERVER": str(server), "DEMO_MARK": self.mark}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "default",
                "-X",
                "faulthandler",
                "-m",
                "examples.stdlib_review",
                "--plain",
                *arguments,
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_line(self, part: str) -> None:
        """Read its output up to a line that contains ``part``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if part in line:
                return
        raise AssertionError(f"ended without a line with {part!r}: {self.process.communicate()[1]}")

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, the rest of its output, and its errors."""
        try:
            output, errors = self.process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            # The interpreter's fault handler answers this one with what every thread is doing.
            self.process.send_signal(signal.SIGABRT)
            output, errors = self.process.communicate(timeout=_SECONDS)
            raise AssertionError(f"did not end in {_SECONDS} s:\n{output}\n{errors}") from None
        return self.process.returncode, output, errors

    def living(self) -> list[str]:
        """Return the command lines of its processes that still run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"DEMO_MARK={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def wait_gone(self) -> None:
        """Wait until none of its processes runs any more."""
        deadline = time.monotonic() + 15.0
        while left := self.living():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)


@pytest.fixture
def start(default_server: ServerBinary) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start_one(*arguments: str) -> Demo:
        started.append(Demo(default_server.path, *arguments))
        return started[-1]

    yield start_one
    for demo in started:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.communicate()


def test_a_review_loses_nothing_although_one_analyst_is_killed_and_one_is_stopped(
    start: Callable[..., Demo],
) -> None:
    code, output, errors = start("--limit", "160").finish()
    assert errors == ""
    assert re.search(r"killed analyst-3 while it held \S+\.py\n", output)
    assert "stopped analyst-2; it finished its work, exit 0\n" in output
    assert "Ten longest functions" in output
    assert "critical" in output or "high" in output
    assert re.search(r"\n160 sent, 160 processed, 0 lost, [1-9]\d* redelivered\n$", output), output
    assert code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: processes are found by /proc")
@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupted_review_ends_broker_and_analysts_without_a_traceback(
    start: Callable[..., Demo], number: signal.Signals, expected: int
) -> None:
    demo = start("--limit", "600")
    demo.wait_line("reviewed")
    demo.process.send_signal(number)
    code, output, errors = demo.finish()
    assert (code, errors) == (expected, "")
    assert output.endswith("interrupted; broker and analysts have ended\n")
    assert demo.living() == []


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: processes are found by /proc")
def test_a_killed_coordinator_leaves_no_process_behind(start: Callable[..., Demo]) -> None:
    demo = start("--limit", "600")
    demo.wait_line("reviewed")
    demo.process.kill()
    demo.process.wait()
    demo.wait_gone()
