"""The front page: its example is the one in examples/, and its numbers are the library's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from agentbus import AgentSettings, PublisherSettings
from agentbus.broker.inbox_care import FATAL_CRASHES
from agentbus.message.durations import seconds
from agentbus.message.policy import ALLOWANCE_MS
from tests.acceptance.pages import blocks, shell_lines
from tests.acceptance.programs import ROOT, embedded_home

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.broker.embedded import ServerBinary

README = ROOT / "README.md"


def test_the_example_is_the_program_in_the_examples_folder() -> None:
    (example,) = [block for block in blocks(README) if block.language == "python"]
    assert example.text == (ROOT / "examples" / "hello.py").read_text()


def test_the_example_runs_exactly_as_printed_and_starts_its_own_broker(
    default_server: ServerBinary, tmp_path: Path
) -> None:
    (example,) = [block for block in blocks(README) if block.language == "python"]
    program = tmp_path / example.title
    program.write_text(example.text)
    with embedded_home(default_server.path) as home:
        finished = home.run_python(program, tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == "attempt 1 at PR 7\nattempt 1 at PR 8\nPR 8 approved: False\n"


def test_the_commands_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = shell_lines(README)
    assert [line.split()[0] for line in lines] == ["make", "make"]
    assert {line.split()[1] for line in lines} <= targets


@pytest.mark.parametrize(
    ("said", "meant", "set_to"),
    [
        ("the lease (4 s by default)", 4, seconds(AgentSettings().lease, "lease")),
        ("stands still for 10 minutes", 600, seconds(AgentSettings().stall_limit, "stall_limit")),
        ("after 30 seconds without a server", 30, seconds(PublisherSettings().deadline, "deadline")),
        ("keys for 24 hours", 86_400, seconds(PublisherSettings().key_window, "key_window")),
        ("The third death", 3, FATAL_CRASHES),
        ("published more than 5 minutes", 300_000, ALLOWANCE_MS["background"] - ALLOWANCE_MS["high"]),
    ],
)
def test_a_number_in_the_table_of_guarantees_is_the_default(said: str, meant: float, set_to: float) -> None:
    text = " ".join(README.read_text().split())
    assert said in text
    assert set_to == meant
