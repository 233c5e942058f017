"""``python -m workers`` and ``agentbus workers run`` as processes: signals, exit codes, policies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine, end, wait_for

#: Runs the command with roles of the test's own in the place of the real ones.
PROGRAM = """
import asyncio, sys
from workers import __main__ as command, roles
from workers.role import Role

class Idle(Role):
    name, summary = "idle", "Does nothing until it is told to stop."
    async def run(self):
        await self.ground.stopping.wait()

class Stubborn(Idle):
    name, summary = "stubborn", "Is in the middle of a long step."
    async def run(self):
        await asyncio.sleep(600)

class Failing(Idle):
    name, summary = "failing", "Fails."
    async def run(self):
        raise ValueError("a mistake")

roles.ROLES = command.ROLES = (Idle, Stubborn, Failing)
raise SystemExit(command.main())
"""


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    (tmp_path / "program.py").write_text(PROGRAM)
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("p"))


@contextmanager
def started(command: CommandLine, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a Python program and wait until it is in the registry of workers."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=command.folder, env=command.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: process.poll() is not None or phases(command).get(process.pid) == "running")
        yield process
    finally:
        process.kill()
        process.communicate()


def phases(command: CommandLine) -> dict[int, str]:
    """Return the phase of each worker by its process."""
    found = [json.loads(line) for line in command("workers").stdout.splitlines()]
    return {worker["pid"]: worker["phase"] for worker in found}


def run(command: CommandLine, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=command.folder, env=command.environment, text=True,
        capture_output=True, timeout=40, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_it_is_listed_no_more(
    command: CommandLine, number: signal.Signals
) -> None:
    with started(command, ["program.py", "idle"]) as process:
        process.send_signal(number)
        code, out, err = end(process)
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert all(" INFO agentbus.workers: " in line for line in lines), "one line per event"
    assert f"stopping: {number.name}" in err and lines[-1].endswith("stopped")
    assert command("workers").returncode == 3


def test_a_second_signal_ends_it_in_the_middle_of_a_step(command: CommandLine) -> None:
    with started(command, ["program.py", "stubborn"]) as process:
        process.terminate()
        wait_for(lambda: phases(command).get(process.pid) == "draining")
        process.terminate()
        code, _, err = end(process)
    assert code == 0
    assert "stubborn is cut off in the middle of a step: asked again" in err


def test_a_role_that_fails_ends_it_with_the_reason(command: CommandLine) -> None:
    finished = run(command, "program.py", "idle", "failing")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "workers: failing ended: ValueError: a mistake"


def test_a_killed_one_is_shown_as_dead(command: CommandLine) -> None:
    with started(command, ["program.py", "idle"]) as process:
        process.kill()
        process.wait()
        wait_for(lambda: phases(command) == {process.pid: "dead"})
        finished = command("workers")
    assert finished.returncode == 3, "none lives"


def test_the_real_roles_run_and_stop_with_their_starter(command: CommandLine) -> None:
    with started(command, ["-m", "workers", "--until-input-ends"]) as process:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        code, _, err = end(process)
    assert (code, "stopping: the starter is gone" in err) == (0, True)


def test_an_unknown_role_is_a_usage_error_that_names_the_roles(command: CommandLine) -> None:
    finished = run(command, "program.py", "nonsense")
    assert finished.returncode == 2
    assert finished.stderr == "workers: no role is called 'nonsense'; there are idle, stubborn, failing\n"
    shown = run(command, "program.py", "--help").stdout
    assert "stubborn  Is in the middle of a long step." in shown
    through = command("workers", "run", "nonsense")
    assert (through.returncode, "no role is called 'nonsense'" in through.stderr) == (2, True)


def test_without_a_broker_it_ends_as_unavailable(command: CommandLine) -> None:
    finished = run(command, "-m", "workers", "--url", "redis://127.0.0.1:1")
    assert finished.returncode == 4
    assert finished.stderr.startswith("workers: ")


def test_the_command_becomes_the_worker_and_passes_signals_on(command: CommandLine) -> None:
    with command.running("workers", "run") as process:
        wait_for(lambda: phases(command).get(process.pid) == "running")
        os.kill(process.pid, signal.SIGTERM)
        assert end(process)[0] == 0


def test_policies_of_a_file_are_declared_and_contradictions_end_the_start(command: CommandLine) -> None:
    file = command.folder / "policies.toml"
    file.write_text('["agent.painter"]\nlimit = 5\nttl = "1m"\n["agent.painter.task"]\nmax_retries = 1\n')
    with started(command, ["program.py", "idle", "--policies", str(file)]):
        assert [record["address"] for record in command.records("policy", "show")] == [
            "agent.painter", "agent.painter.task",
        ]  # fmt: skip
    other = command.folder / "policies.json"
    other.write_text('{"agent.painter": {"limit": 6, "ttl": 60}, "agent.painter.task": {"max_retries": 2}}')
    finished = run(command, "program.py", "idle", "--policies", str(other))
    assert finished.returncode == 2
    assert "limit is 5, not 6" in finished.stderr and "max_retries is 1, not 2" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [("[agent.painter]\nlimit = 5\n", 'write ["agent.painter"] with quotes'),
     ('["agent.painter"]\nlimits = 5\n', "agent.painter: limits: is no field of a policy"),
     ('painter = 5\n', "'painter' must be a table"), ("nonsense", "cannot be read")],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_a_usage_error(command: CommandLine, text: str, words: str) -> None:
    file = command.folder / "policies.toml"
    file.write_text(text)
    finished = run(command, "program.py", "idle", "--policies", str(file))
    assert (finished.returncode, words in finished.stderr) == (2, True), finished.stderr
