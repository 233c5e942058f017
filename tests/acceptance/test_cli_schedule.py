"""``agentbus schedule`` as a user meets it, with a worker process that sends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine

Unique = Callable[[str], str]


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Unique) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("cli"))


def test_a_schedule_is_added_listed_paused_resumed_and_removed(command: CommandLine) -> None:
    (added,) = command.records(
        "schedule", "add", "agent.reviewer.sweep", '{"run": "{{tick_number}}"}', "30 2 * * *",
        "--timezone", "Europe/Berlin", "--name", "nightly", "--misfire", "all:3", "--from", "planner",
        "--metadata", '{"team": "core"}', "--priority", "low", "--ttl", "1h",
        "--expires-at", "2100-01-01T00:00:00Z",
    )  # fmt: skip
    assert (added["id"], added["state"], added["owner"]) == ("agent.reviewer:nightly", "active", "planner")
    assert (added["misfire"], added["metadata"], added["priority"]) == ("all:3", {"team": "core"}, "low")
    assert added["expires_at"] == "2100-01-01T00:00:00Z" and added["timezone"] == "Europe/Berlin"
    assert command.records("schedule", "ls") == [added] == command.records("schedule", "ls", "reviewer")
    (paused,) = command.records("schedule", "pause", added["id"])
    assert (paused["state"], paused["next_send_at"]) == ("paused", None)
    ticks = command.records("schedule", "next", added["id"], "-n", "2")
    (resumed,) = command.records("schedule", "resume", added["id"])
    assert resumed == added and ticks[0]["tick"] == added["next_send_at"]
    assert ticks[0]["local"][10:19] == "T02:30:00"
    assert command.records("schedule", "rm", added["id"]) == [{"id": added["id"], "state": "removed"}]
    assert command.records("schedule", "ls") == []
    for verb in ("show", "pause", "resume", "rm", "next"):
        finished = command("schedule", verb, added["id"])
        assert (finished.returncode, finished.stdout) == (3, "")
        assert "there is no schedule agent.reviewer:nightly" in finished.stderr


def test_what_a_worker_sends_arrives_with_its_values_filled_in(command: CommandLine) -> None:
    (added,) = command.records(
        "schedule", "add", "agent.reviewer.sweep", '["{{tick_number}}", "{{schedule_id}}"]', "interval:1"
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", "workers", "recurring", "--log-level", "error"], env=command.environment
    )
    try:
        taken = command.records("sub", "reviewer", "--count", "2", "--timeout", "20s")
        (shown,) = command.records("schedule", "show", added["id"])
    finally:
        worker.terminate()
        assert worker.wait(timeout=20) == 0
    contents = [delivery["message"]["body"]["content"] for delivery in taken]
    assert contents == [[1, added["id"]], [2, added["id"]]]
    assert shown["sent"] >= 2 and shown["missed"] == 0 and shown["last_sent_at"] > added["created_at"]


def test_the_next_ticks_of_what_is_no_schedule_yet_need_no_broker(tmp_path: Path) -> None:
    command = CommandLine(tmp_path, AGENTBUS_URL="redis://127.0.0.1:1")
    records = command.records("schedule", "next", "*/30 * * * *", "-z", "Australia/Lord_Howe", "-n", "3")
    times = [datetime.fromisoformat(record["tick"]) for record in records]
    assert [(later - first).total_seconds() for first, later in pairwise(times)] == [1800] * 2
    (only,) = command.records("schedule", "next", "at:2099-12-31T23:59:59Z")
    assert only == {"tick": "2099-12-31T23:59:59Z", "local": "2099-12-31T23:59:59+00:00"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("*/5 * * * * *",), "has 6 fields; a cron expression has five"),
        (("interval:0",), "an interval is a second or more"),
        (("at:2020-01-01T00:00:00Z",), "is in the past"),
        (("0 0 30 2 *",), "never happens"),
        (("0 9 * * *", "-z", "berlin"), "did you mean Europe/Berlin"),
        (("0 9 * * *", "--expires-at", "2020-01-01T00:00:00Z"), "expires_at"),
        (("0 9 * * *", "--misfire", "twice"), "is not skip, once or all:<most>"),
        (("0 9 * * *", "--metadata", "[1]"), "must be a JSON object"),
    ],
)
def test_bad_input_is_a_usage_error_and_stores_nothing(
    command: CommandLine, arguments: tuple[str, ...], problem: str
) -> None:
    finished = command("schedule", "add", "agent.reviewer.sweep", "null", *arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert problem in finished.stderr and len(finished.stderr.splitlines()) == 1
    assert command.records("schedule", "ls") == []
