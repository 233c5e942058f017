"""Every line with the command `agentbus` that the docs show runs, in the order in which a page shows them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.pages import blocks, pages
from tests.acceptance.programs import ROOT, Home, embedded_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentbus.broker.embedded import ServerBinary

UNTIL_STOPPED = "# until Ctrl-C"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("typer") is None or importlib.util.find_spec("agentbus.cli.app") is None,
        reason="NOT TESTED: the command is not installed",
    ),
    pytest.mark.skipif(shutil.which("jq") is None, reason="NOT TESTED: jq is not on PATH"),
]


def _lines(page: Path) -> list[str]:
    text = "".join(block.text for block in blocks(page) if block.language == "sh")
    return [line for line in text.splitlines() if re.search(r"(?:^|[|(] *)agentbus ", line)]


@pytest.fixture
def home(default_server: ServerBinary, tmp_path: Path) -> Iterator[Home]:
    """An embedded broker, and a shell that finds the command."""
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "agentbus"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentbus.cli "$@"\n')
    command.chmod(0o755)
    with embedded_home(default_server.path) as opened:
        opened.environment["PATH"] = f"{programs}{os.pathsep}{opened.environment['PATH']}"
        yield opened


@pytest.mark.parametrize("page", [page for page in pages() if _lines(page)], ids=lambda page: page.name)
@pytest.mark.timeout(180)
def test_the_lines_of_a_page_run_one_after_the_other(page: Path, home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    for block in blocks(page):
        if block.title.endswith(".py"):
            (folder / block.title).write_text(block.text)
    lines = _lines(page)
    for index, line in enumerate(lines):
        if UNTIL_STOPPED not in line:
            _run(home, line, folder)
            continue
        with _in_the_background(home, line, folder):
            # The line after it is what somebody does meanwhile.
            _run(home, lines.pop(index + 1), folder)


def test_every_command_is_in_the_guide() -> None:
    from agentbus.cli.app import COMMANDS

    guide = (ROOT / "docs" / "guides" / "cli.md").read_text()
    table = guide[guide.index("| Command |") :]
    assert set(COMMANDS) == set(
        re.findall(r"`([a-z]+)`", "\n".join(row.split("|")[1] for row in _rows(table)))
    )


def _rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("| `")]


def _run(home: Home, line: str, folder: Path) -> None:
    finished = home.run(["bash", "-o", "pipefail", "-c", line], folder)
    assert finished.returncode == 0, f"{line}\n{finished.stdout}\n{finished.stderr}"


@contextmanager
def _in_the_background(home: Home, line: str, folder: Path) -> Iterator[None]:
    command = "exec " + line.split(UNTIL_STOPPED)[0].strip()
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=home.environment, text=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        code = process.wait(timeout=40)
    assert (code, time.monotonic() - begun < 30) == (0, True)
