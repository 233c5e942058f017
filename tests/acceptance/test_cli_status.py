"""``agentbus status``: once, again and again, and into a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentbus.broker.embedded import PrivateBroker
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine, interrupt


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("p"))


def test_a_pipe_gets_one_object_with_the_deepest_first(command: CommandLine) -> None:
    command.records("pub", "agent.shallow.task", "1")
    for _ in range(2):
        command.records("pub", "agent.deep.task", "1", "--priority", "low")
    command.records("pub", "channel.design.note", "1")
    (status,) = command.records("status")
    assert [(each["address"], each["depths"]) for each in status["addresses"]] == [
        ("agent.deep", {"low": 2}), ("agent.shallow", {"normal": 1}),
    ]  # fmt: skip
    assert (status["total"]["waiting"], status["rest"]["addresses"]) == (3, 0)
    assert [each["address"] for each in status["channels"]] == ["channel.design"]
    assert status["server"]["version"] and status["workers"] == 0


def test_watching_goes_on_until_ctrl_c_and_shows_rates(command: CommandLine) -> None:
    command.records("pub", "agent.busy.task", "1")
    with command.running("status", "--watch") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        command.records("pub", "agent.busy.task", "--lines", stdin="1\n" * 50)
        second = json.loads(process.stdout.readline())
        third = json.loads(process.stdout.readline())
        code, _, _ = interrupt(process)
    assert first["total"]["accepted_rate"] is None
    assert second["total"]["accepted_rate"] + third["total"]["accepted_rate"] > 0
    assert third["addresses"][0]["waiting"] == 51
    assert code == 130


def test_watching_on_a_terminal_writes_over_in_place_and_leaves_the_last_look(command: CommandLine) -> None:
    command.records("pub", "agent.busy.task", "1")
    screen = on_terminal(command, "status", "--watch", seconds=5.0)
    painted, left_behind = screen.split("\x1b[?1049l")
    assert painted.count("\x1b[H") > 2 and "\x1b[2K" not in painted
    assert "busy" in left_behind and "\x1b[?25h" in screen


def on_terminal(command: CommandLine, *arguments: str, seconds: float) -> str:
    """Run a command on a terminal of 80 columns, press Ctrl-C after a while, and return what was written."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "agentbus.cli", *arguments], cwd=command.folder,
        env={**command.environment, "TERM": "xterm", "NO_COLOR": "1"}, process_group=0,
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    timer = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGINT))
    timer.start()
    written = b""
    # Reading from a terminal that nobody holds any more is an error, not the end of a file.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            written += part
    timer.cancel()
    os.close(ours)
    assert process.wait(timeout=20) == 130
    return written.decode()


def test_a_watcher_sees_the_broker_go_and_come_back(
    private_broker: Callable[..., PrivateBroker], tmp_path: Path
) -> None:
    server = private_broker()
    command = CommandLine(tmp_path, AGENTBUS_URL=server.url)
    command.records("pub", "agent.busy.task", "1")
    with command.running("status", "--watch") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        server.kill()
        assert "waiting for it" in process.stderr.readline()
        server.restart()
        assert json.loads(process.stdout.readline())["total"]["waiting"] == 1
