"""``agentbus run``: agents from a file, in one process and in several, drained by signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine, interrupt, terminate, wait_for

_MODULE = """
import asyncio
from agentbus import Agent

worker = Agent({name!r}, concurrency=2)

@worker.on("task")
async def task(seconds: float):
    await asyncio.sleep(seconds)

@worker.on("question")
async def question(body: dict):
    return {{"heard": body}}
"""


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url)


@pytest.fixture
def name(command: CommandLine, unique: Callable[[str], str]) -> str:
    chosen = unique("worker")
    (command.folder / "tasks.py").write_text(_MODULE.format(name=chosen))
    return chosen


class Eyes:
    """Looks at the inbox without a process for each look."""

    def __init__(self, url: str, name: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._root = f"agentbus:{{agent.{name}}}:"

    def processes(self) -> set[int]:
        """Return the ids of the processes that serve."""
        names = self._client.hkeys(f"{self._root}alive")
        return {int(name.decode().split(".")[-2]) for name in names}

    def in_flight(self) -> int:
        """Return how many messages are held."""
        summary = self._client.xpending(f"{self._root}lane:normal", "inbox")
        return int(summary["pending"])

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def eyes(broker: BrokerForTests, name: str) -> Iterator[Eyes]:
    opened = Eyes(broker.url, name)
    yield opened
    opened.close()


def test_one_process_serves_an_agent_and_drains_on_ctrl_c(
    command: CommandLine, name: str, eyes: Eyes
) -> None:
    with command.running("run", "tasks:worker") as process:
        (answer,) = command.records(
            "pub", f"agent.{name}.question", '{"a": 1}', "--request", "--timeout", "20s"
        )
        assert answer == {"heard": {"a": 1}}
        command.records("pub", f"agent.{name}.task", "1")
        wait_for(eyes.in_flight)
        code, _, err = interrupt(process)
    assert code == 0 and "is drained" in err and "Traceback" not in err
    (inbox,) = command.records("inbox", name)
    assert inbox["ledger"]["ended"]["processed"] == 2
    assert inbox["consumers"] == [] and inbox["ledger"]["closes"]


def test_several_processes_are_started_again_when_killed_and_drain_on_sigterm(
    command: CommandLine, name: str, eyes: Eyes
) -> None:
    with command.running("run", "tasks:worker", "--processes", "2") as process:
        wait_for(lambda: len(eyes.processes()) == 2)
        victim = min(eyes.processes())
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(eyes.processes() - {victim}) == 2)
        command.records("pub", f"agent.{name}.task", "--lines", stdin="0.5\n" * 6)
        code, _, err = terminate(process)
    assert code == 0, err
    assert f"({victim}) was killed by SIGKILL; it is started again in" in err
    assert err.count("is drained") == 2 and "Traceback" not in err
    (inbox,) = command.records("inbox", name)
    assert (inbox["in_flight"], inbox["ledger"]["moves"]["retried"]) == (0, 0)
    assert inbox["ledger"]["closes"]


def test_processes_end_when_their_supervisor_is_killed(command: CommandLine, name: str, eyes: Eyes) -> None:
    with command.running("run", "tasks:worker", "--processes", "2") as process:
        wait_for(lambda: len(eyes.processes()) == 2)
        process.kill()
        wait_for(lambda: not eyes.processes())


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("worker = 1", "bad:worker", "is no Agent"),
        ("from agentbus import Agent\nother = Agent('o')", "bad:worker", "its agents are other"),
        ("1 / 0", "bad:worker", "ZeroDivisionError"),
        ("import no_such_library", "bad:worker", "no_such_library"),
        ("", "bad", "must be module:agent"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    command: CommandLine, source: str, target: str, text: str
) -> None:
    (command.folder / "bad.py").write_text(source)
    # Several processes say it too, and are not started again and again.
    finished = command("run", target, "--processes", "2" if source.startswith("1 / 0") else "1")
    assert finished.returncode == 2
    assert text in finished.stderr and "Traceback" not in finished.stderr
