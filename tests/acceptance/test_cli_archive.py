"""``python -m workers archive`` and ``agentbus archive``, as somebody runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine, wait_for


def test_an_archive_is_turned_on_by_a_worker_seen_and_turned_off(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str], postgres_dsn: str
) -> None:
    prefix, name = unique("p"), unique("reviewer")
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=prefix)
    command.environment["AGENTBUS_ARCHIVE"] = postgres_dsn
    command.records("pub", f"agent.{name}.task", "--lines", stdin="1\n2\n3\n")
    command.records("sub", name, "--count", "3", "--timeout", "10s")
    (before,) = command.records("archive", "status")
    assert (before["on"], before["archived"]) == (False, 0)
    worker = subprocess.Popen(
        [sys.executable, "-m", "workers", "archive"], cwd=tmp_path, env=command.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        (after,) = wait_for(
            lambda: [one for one in command.records("archive", "status") if one["archived"] == 3]
        )
        assert after == {
            "address": f"agent.{name}", "on": True, "archived": 3, "unarchived": 0, "lag_ms": 0, "missing": 0,
        }  # fmt: skip
        refused = command("archive", "off")
        assert refused.returncode == 1
        assert "would turn it on again" in refused.stderr
    finally:
        worker.terminate()
        worker.wait(timeout=20)
    assert worker.returncode == 0
    examined = [json.loads(line) for line in command("doctor").stdout.splitlines()]
    (finding,) = [one for one in examined if one["subject"] == "archive"]
    assert (finding["status"], finding["detail"]) == ("bad", "it is on, and no worker archives")
    assert command.records("archive", "off") == [{"on": False, "addresses": 1}]
    assert [one["on"] for one in command.records("archive", "status")] == [False]
