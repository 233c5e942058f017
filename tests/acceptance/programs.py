"""Run programs as a user does: from a folder of their own, with an embedded broker of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from agentbus.broker.embedded import EmbeddedSettings, ensure_running, stop
from agentbus.broker.embedded.places import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
_SECONDS = 40.0

Finished = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Home:
    """Where `embedded://` leads programs run by these tests."""

    folder: Path
    url: str
    socket: Path
    environment: dict[str, str]

    def run(self, command: Sequence[str | Path], folder: Path, **more: str) -> Finished:
        """Run a command; its environment is this one's, with ``more`` on top."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def run_python(self, program: Path, folder: Path, **more: str) -> Finished:
        """Run a Python program with warnings shown, which a correct example does not cause."""
        return self.run([sys.executable, "-W", "default", program], folder, **more)

    def run_pytest(self, tests: Path, folder: Path, **more: str) -> Finished:
        """Run a file of tests as a project does that has installed agentbus."""
        arguments = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
        arguments += ["-o", "asyncio_default_fixture_loop_scope=function"]
        if "agentbus" not in {point.name for point in entry_points(group="pytest11")}:
            arguments += ["-p", "agentbus.testing"]
        return self.run([sys.executable, "-m", "pytest", *arguments, tests], folder, **more)


@contextmanager
def embedded_home(server: Path) -> Iterator[Home]:
    """Start an embedded broker in a folder that exists for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="agentbus-docs-", dir=temporary_folder()))
    settings = EmbeddedSettings(folder=folder, server=server)
    try:
        running = asyncio.run(ensure_running(settings))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTBUS_")}
        environment = {
            **kept,
            "AGENTBUS_HOME": str(folder),
            "AGENTBUS_SERVER": str(server),
            # The checkout, so that the examples need no installation.
            "PYTHONPATH": str(ROOT),
        }
        yield Home(folder, running.url, running.socket, environment)
    finally:
        asyncio.run(stop(settings, force=True))
        shutil.rmtree(folder, ignore_errors=True)
