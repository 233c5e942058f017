"""``agentbus history`` as a user runs it: pages, filters, what is missing, errors and exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("cli"))


def process(command: CommandLine, *bodies: Any) -> None:
    lines = "\n".join(json.dumps(body) for body in bodies)
    command.records("pub", "agent.reviewer.task", "--lines", "--from", "planner", stdin=lines)
    command.records("sub", "reviewer", "--count", str(len(bodies)), "--timeout", "10s")


def contents(records: list[dict[str, Any]]) -> list[Any]:
    return [record["message"]["body"]["content"] for record in records if "message" in record]


def test_history_pages_and_says_whether_it_is_complete(command: CommandLine) -> None:
    process(command, *range(5))
    command.records("pub", "agent.reviewer.task", '"later"', "--delay", "1h")
    *entries, end = command.records("history", "reviewer", "--limit", "4")
    assert contents(entries) == ["later", 4, 3, 2] and end["complete"] is True
    assert [entry["state"] for entry in entries] == ["due", "ended", "ended", "ended"]
    *entries, end = command.records("history", "reviewer", "--limit", "4", "--cursor", end["next"])
    assert contents(entries) == [1, 0] and end == {"next": None, "complete": True, "gaps": []}
    *entries, end = command.records("history", "agent.reviewer", "--all", "--oldest", "--state", "ended")
    assert contents(entries) == [0, 1, 2, 3, 4] and end["next"] is None
    *entries, _ = command.records("history", "reviewer", "--from", "planner", "--grep", "3", "--since", "1h")
    assert contents(entries) == [3]


def test_what_retention_removed_is_said_on_stderr_too(command: CommandLine, broker: BrokerForTests) -> None:
    process(command, *range(3))
    prefix = command.environment["AGENTBUS_PREFIX"]
    with redis.Redis.from_url(broker.url) as server:
        server.xtrim(f"{prefix}:{{agent.reviewer}}:outcomes", maxlen=1, approximate=False)
    finished = command("history", "reviewer", "--all")
    assert finished.returncode == 0
    assert "note: not complete: 2 message(s) that ended before" in finished.stderr
    end = json.loads(finished.stdout.splitlines()[-1])
    assert end["complete"] is False and end["gaps"][0]["kind"] == "trimmed"


def test_a_terminal_shows_a_table_and_the_way_to_the_next_page(command: CommandLine) -> None:
    process(command, {"text": "x" * 200}, "second")
    outside, inside = pty.openpty()
    finished = subprocess.run(
        [sys.executable, "-m", "agentbus.cli", "history", "reviewer", "--limit", "1"],
        cwd=command.folder, env={**command.environment, "TERM": "dumb", "COLUMNS": "160"},
        stdout=inside, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
    )  # fmt: skip
    os.close(inside)
    shown = os.read(outside, 65536).decode()
    os.close(outside)
    assert finished.returncode == 0
    assert all(word in shown for word in ("time", "processed", "task", "planner", '"second"'))
    cursor = finished.stderr.partition("next: --cursor ")[2].strip()
    *entries, _ = command.records("history", "reviewer", "--limit", "1", "--cursor", cursor)
    assert contents(entries) == [{"text": "x" * 200}]


def test_an_address_that_nobody_knows_is_exit_code_3_with_close_names(command: CommandLine) -> None:
    process(command, 1)
    finished = command("history", "reviwer")
    assert finished.returncode == 3
    assert "nothing was ever sent to agent.reviwer" in finished.stderr
    assert "did you mean agent.reviewer?" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--since", "soon"), "since: must be a time such as"),
        (("--outcome", "lost"), "outcome: 'lost' is none of"),
        (("--cursor", "abc"), "cursor: 'abc' is none"),
        (("--limit", "-1"), "limit: must be from 0 (all)"),
    ],
)
def test_bad_input_is_exit_code_2_and_named(
    command: CommandLine, arguments: tuple[str, ...], problem: str
) -> None:
    finished = command("history", "reviewer", *arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert problem in finished.stderr
