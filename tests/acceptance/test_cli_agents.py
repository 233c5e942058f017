"""``agentbus agents`` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentbus import Agent, Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine

Unique = Callable[[str], str]


@pytest.fixture
async def command(broker: BrokerForTests, tmp_path: Path, unique: Unique) -> CommandLine:
    """A command line where a reviewer and a tester were served, and are gone."""
    prefix = unique("cli")
    agents = Agent("reviewer", type="review", capabilities=["python"]), Agent("tester")
    async with Bus(broker.url, settings=BusSettings(prefix=prefix)) as bus, bus.serving(*agents):
        pass
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=prefix)


def test_agents_are_listed_shown_and_forgotten(command: CommandLine) -> None:
    reviewer, tester = command.records("agents")
    assert (reviewer["name"], reviewer["type"]) == ("reviewer", "review")
    assert reviewer["capabilities"] == ["python"]
    assert (reviewer["online"], reviewer["instances"], tester["name"]) == (False, [], "tester")
    assert command.records("agents", "--capability", "python", "--type", "review") == [reviewer]
    assert command.records("agents", "forget", "tester") == [{"name": "tester", "state": "forgotten"}]
    finished = command("agents", "show", "reviwer")
    assert (finished.returncode, finished.stdout) == (3, "")
    assert "did you mean reviewer?" in finished.stderr
