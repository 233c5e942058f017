"""``agentbus status``: once, again and again, and into a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
