"""``agentbus replay``, ``cancel`` and ``project rm`` as a user runs them."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine
from tests.acceptance.terminal import on_terminal


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("cli"))


def publish(command: CommandLine, topic: str, *bodies: Any) -> None:
    lines = "\n".join(json.dumps(body) for body in bodies)
    command.records("pub", topic, "--lines", "--from", "planner", stdin=lines)


def test_a_replay_that_is_interrupted_goes_on_under_the_id_it_names(
    command: CommandLine, broker: BrokerForTests
) -> None:
    lane = f"{command.environment['AGENTBUS_PREFIX']}:{{agent.newcomer}}:lane:normal"
    publish(command, "channel.design.note", *range(40))
    unknown = command("replay", "channel.design", "--to", "newcomer")
    assert unknown.returncode == 3 and "nobody has ever served agent.newcomer" in unknown.stderr
    words = ["replay", "channel.design", "--to", "newcomer", "--allow-unknown", "--since", "1h"]
    with command.running(*words, "--rate", "20") as running:
        with redis.Redis.from_url(broker.url) as server:
            while not server.xlen(lane):
                assert running.poll() is None
                time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    found = re.search(r"stopped after \d+ messages?; go on with the same command and --id (\S+)", said)
    assert found is not None, said
    (done,) = command.records(*words, "--id", found[1])
    assert (done["count"], done["complete"]) == (40, True)
    with redis.Redis.from_url(broker.url) as server:
        found_there: Any = server.xrange(lane)
    assert [json.loads(each[b"message"])["body"]["content"] for _, each in found_there] == list(range(40))
    nothing = command(*words, "--type", "vote")
    assert nothing.returncode == 3 and "there is nothing to replay" in nothing.stderr


def test_a_message_is_cancelled_once_and_what_is_not_known_is_said(command: CommandLine) -> None:
    (stored,) = command.records("pub", "agent.reviewer.task", '"later"', "--delay", "1h")
    first = stored["message_id"]
    (done,) = command.records("cancel", first, "--address", "reviewer", "--from", "planner")
    assert [(one["stream"], one["ended"]) for one in done["places"]] == [("due", True)]
    again = command("cancel", first)
    assert again.returncode == 1 and "at agent.reviewer it is cancelled" in again.stderr
    unknown = command("cancel", "0192", "--address", "reviewer")
    assert unknown.returncode == 3 and "not known at agent.reviewer" in unknown.stderr


def test_a_project_is_deleted_after_somebody_was_asked(command: CommandLine) -> None:
    publish(command, "project.demo.commit", 1, 2)
    (planned,) = command.records("project", "rm", "demo", "--dry-run")
    assert (planned["removed"], planned["dry_run"]) == (2, True)
    shown = on_terminal(command, "project", "rm", "demo", dialogue=[("delete project demo?", "n\n")])
    assert shown.code == 1 and "nothing was deleted" in shown.text and "project.demo" in shown.text
    (done,) = command.records("project", "rm", "demo", "--yes", "--reason", "test", "--from", "planner")
    assert (done["removed"], done["complete"], done["by"]) == (2, True, "planner")
    assert command("project", "rm", "demo", "--yes").returncode == 3
