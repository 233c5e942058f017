"""``agentbus up`` and ``down``: the embedded broker of a private home."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from agentbus.broker.embedded import ServerBinary
from agentbus.broker.embedded.places import private_folder, temporary_folder
from tests.acceptance.cli_process import CommandLine, interrupt, terminate


@pytest.fixture
def command(default_server: ServerBinary) -> Iterator[CommandLine]:
    # A short path: a socket's may not be longer than a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="ab-", dir=temporary_folder()) as folder:
        opened = CommandLine(private_folder(Path(folder)), AGENTBUS_SERVER=str(default_server.path))
        yield opened
        opened("down", "--force")


def test_without_any_broker_both_ways_out_are_named(command: CommandLine) -> None:
    finished = command("inbox")
    assert finished.returncode == 4
    assert "agentbus up" in finished.stderr and "--url" in finished.stderr
    assert "AGENTBUS_URL" in finished.stderr


def test_up_in_the_foreground_is_found_by_others_and_ended_by_ctrl_c(command: CommandLine) -> None:
    with command.running("up") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["started"] is True
        assert told["export"] == f"export AGENTBUS_URL={told['url']}"
        assert told["redis_cli"].endswith(f"-s {told['url'].removeprefix('unix://')}")
        command.records("pub", "agent.reviewer.task", "1")
        refused = command("down")
        assert refused.returncode == 1 and "agentbus:up" in refused.stderr
        code, _, err = interrupt(process)
    assert code == 0 and "the broker is stopped; its data stay" in err
    assert command("inbox").returncode == 4
    (again,) = command.records("up", "--detach")
    assert again["started"] is True
    waiting = {record["address"]: record.get("waiting") for record in command.records("inbox")}
    assert waiting["agent.reviewer"] == 1
    assert command.records("down") == [{"stopped": True, "folder": told["folder"]}]
    assert command.records("down")[0]["stopped"] is False


def test_up_leaves_the_broker_to_others_who_are_connected(command: CommandLine) -> None:
    with command.running("up") as process:
        assert process.stdout is not None
        process.stdout.readline()
        with command.running("tail", "reviewer") as other:
            assert other.stderr is not None
            other.stderr.readline()
            code, _, err = terminate(process)
            assert code == 0
            assert "goes on running: agentbus:cli" in err
            refused = command("down")
            assert (
                refused.returncode == 1 and "agentbus:cli" in refused.stderr and "--force" in refused.stderr
            )
            assert command.records("down", "--force")[0]["stopped"] is True
            assert interrupt(other)[0] == 130


def test_up_says_when_somebody_else_stops_the_broker(command: CommandLine) -> None:
    with command.running("up") as process:
        assert process.stdout is not None
        process.stdout.readline()
        command.records("down", "--force")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the broker is gone" in err


def test_up_ends_with_the_reason_when_nobody_is_left_to_bring_the_broker_back(command: CommandLine) -> None:
    with command.running("up") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        record = json.loads((Path(told["folder"]) / "broker.json").read_text())
        os.kill(record["keeper_pid"], signal.SIGKILL)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "somebody stopped it or its keeper" in err
    (again,) = command.records("up", "--detach", "--no-workers")
    assert again["started"] is True


# --- workers ---


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def lines_of(stream: IO[str] | None) -> Iterator[str]:
    assert stream is not None
    while line := stream.readline():
        yield line


def test_up_runs_workers_tells_when_they_die_and_ends_them(command: CommandLine) -> None:
    with command.running("up") as process:
        told = json.loads(next(lines_of(process.stdout)))
        pid = told["workers"]["pid"]
        assert [worker["pid"] for worker in command.records("workers")] == [pid]
        os.kill(pid, signal.SIGKILL)
        died = next(line for line in lines_of(process.stderr) if "killed" in line)
        assert "the workers were killed by signal 9" in died and "started again in" in died
        again = next(line for line in lines_of(process.stderr) if "run as process" in line)
        new = int(again.split("process ")[1].split()[0])
        code, _, err = interrupt(process)
    assert code == 0 and "the broker is stopped; its data stay" in err
    assert not lives(new)


def test_a_killed_up_leaves_workers_and_broker_to_each_other_and_to_down(command: CommandLine) -> None:
    with command.running("up") as process:
        told = json.loads(next(lines_of(process.stdout)))
        process.kill()
        process.wait()
    assert lives(told["workers"]["pid"]), "as the broker does, they go on until idle"
    assert command.records("down")[0]["stopped"] is True
    assert not lives(told["workers"]["pid"])


def test_two_ups_watch_one_set_of_workers(command: CommandLine) -> None:
    with command.running("up") as one, command.running("up") as other:
        pids = {json.loads(next(lines_of(up.stdout)))["workers"]["pid"] for up in (one, other)}
        assert len(pids) == 1
        assert "another `agentbus up` watches it" in interrupt(one)[2]
        assert lives(*pids)
        assert "the broker is stopped" in interrupt(other)[2]
    assert not lives(*pids)


def test_up_without_workers_runs_none(command: CommandLine) -> None:
    (told,) = command.records("up", "--detach", "--no-workers")
    assert told["workers"] is None
    finished = command("workers")
    assert finished.returncode == 3
    assert "agentbus up" in finished.stderr and "agentbus workers run" in finished.stderr


def test_up_ignores_a_url_that_names_another_server(command: CommandLine) -> None:
    elsewhere = {**command.environment, "AGENTBUS_URL": "redis://127.0.0.1:1"}
    command.environment = elsewhere
    (told,) = command.records("up", "--detach")
    assert told["workers"]["pid"] is not None
    assert [worker["pid"] for worker in command.records("workers", "--url", told["url"])] == [
        told["workers"]["pid"]
    ]
