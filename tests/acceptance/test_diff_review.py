"""The review of a diff, as a user runs it, with a person who reads along in another terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentbus.testing import BrokerForTests
from examples.diff_review.patch import read_diff
from tests.acceptance.cli_process import ROOT, CommandLine, wait_for

EXAMPLE = ROOT / "examples" / "diff_review"


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("review"))


def test_agents_review_a_diff_and_a_person_reads_along(
    command: CommandLine, broker: BrokerForTests, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    with (
        seen.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "agentbus.cli", "tail", "project.demo", "-n", "100", "--json"],
            cwd=tmp_path, env=command.environment, stdout=log, stderr=subprocess.DEVNULL,
        ) as person,
    ):  # fmt: skip
        # What a review has left behind that was broken off is none of this one's.
        change = '{"file": "old.py", "text": "try: 1\\nexcept: 2\\n", "new_lines": [2]}'
        for reviewer in ("tree", "ruff"):
            assert command("pub", f"agent.{reviewer}.review", change).returncode == 0
        finished = subprocess.run(
            [sys.executable, "-m", "examples.diff_review", broker.url],
            cwd=tmp_path, env=command.environment, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        try:
            assert (finished.returncode, finished.stderr) == (0, "")
            wait_for(lambda: '"verdict"' in seen.read_text())
        finally:
            person.terminate()
    printed = finished.stdout
    assert "! stock.py:35: except: a bare except hides KeyboardInterrupt and every mistake" in printed
    assert "  report.py:18: E711: Comparison to `None` should be `cond is None`" in printed
    assert "ruff would begin with stock.py:22" in printed and "tree would begin with stock.py:22" in printed
    assert printed.endswith("verdict: rework\n") and "old.py" not in printed
    lines = [line for line in seen.read_text().splitlines() if "old.py" not in line]
    types = [json.loads(line)["message"]["message_type"] for line in lines]
    assert types.count("review") == 2 and types.count("finding") == 8
    assert types[-2:] == ["proposal", "verdict"]

    rows = command.records("dm", "ls", "--as", "planner")
    assert {row["other"] for row in rows} == {"ruff", "tree"}
    (sent,) = [
        record["message"]["message_id"]
        for record in command.records("tail", "project.demo", "-n", "50", "--no-follow")
        if record["message"]["message_type"] == "review"
    ][:1]
    receipts = command.records("receipts", sent)
    assert {row["agent"] for row in receipts if row["processed_at"]} == {"ruff", "tree"}


def test_a_diff_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "stock.py").write_text("nothing of the kind\n")
    with pytest.raises(ValueError, match=r"stock\.py: line 1 is not"):
        read_diff(EXAMPLE / "change.diff", tmp_path)
