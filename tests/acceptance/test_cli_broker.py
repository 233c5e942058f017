"""``agentbus up`` and ``down``: the embedded broker of a private home."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    (address,) = command.records("inbox")
    assert (address["address"], address["waiting"]) == ("agent.reviewer", 1)
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
