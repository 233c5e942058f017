"""Forked commands are processes like those that a shell starts: at the same time, with their own ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_nursery import nursery
from tests.acceptance.cli_process import CommandLine, Finished


def test_forked_commands_run_side_by_side_each_with_its_input_output_and_code(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    name = unique("forked")
    environment = CommandLine(tmp_path, AGENTBUS_URL=broker.url).environment

    def run(*arguments: str, stdin: str = "") -> Finished:
        return nursery().run(arguments, tmp_path, environment, stdin, 30.0)

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(run, "sub", name, "--count", "1", "--timeout", "20s")
        sent = run("pub", f"agent.{name}.task", "-", stdin='{"pr": 7}')
        taken = waiting.result()
    assert (sent.returncode, taken.returncode) == (0, 0), (sent.stderr, taken.stderr)
    assert json.loads(taken.stdout)["message"]["message_id"] == json.loads(sent.stdout)["message_id"]
    refused = run("inbox", "agent.no name")
    assert (refused.returncode, refused.stdout) == (2, "") and "no name" in refused.stderr
