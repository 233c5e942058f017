"""Writes what was found into docs/reliability.md."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from agentbus.broker.embedded import ServerBinary
from tests.chaos.figure import Figure

_ROOT = Path(__file__).resolve().parents[2]
PLACE = _ROOT / "docs" / "reliability.md"

_BEGIN = """# Reliability, measured

Written by `make chaos`; do not edit. Real processes are killed, frozen and cut off while messages flow. Every
publisher, agent and person writes down what it does before and after; a checker compares the histories with
the broker and the archive (`tests/chaos/checker.py` and the judges beside it, themselves tested with
planted losses, duplicates and lies).

A zero proves little by itself. Beside each stands what it bounds: nothing in N independent trials means, with
95 % confidence, a probability below 3/N in each.

"""
_END = """
## What these runs do not show

A SIGKILL ends a process, not the machine: what the server had handed to the kernel survives. Under
`appendfsync everysec` a crash of the machine can cost about the last second, and the server may also answer
before it has written while an earlier sync is still running; only `always` excludes both. Failover,
partitions between servers and clock jumps are not part of these runs. PostgreSQL runs without fsync, for the
same reason: a commit that it has answered survives its death, not that of the machine.

A zero for `lost` speaks of messages whose publisher was told that they are stored. `uncertain` ones were
never confirmed: their publisher was killed, or its deadline passed, while the broker was away.
"""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and how the figures came about."""

    seed: str
    command: str
    server: ServerBinary
    #: Taken when the run begins: files may change while it lasts.
    commit: str
    minutes: float

    def rows(self) -> dict[str, str]:
        """Return what a reader needs to judge and repeat the run."""
        return {
            "seed": f"`{self.seed}`",
            "command": f"`{self.command}`",
            "commit": self.commit,
            "server": f"{self.server.kind} {self.server.version}, a process of its own for each run",
            "storage": f"append-only file on {_file_system()}; appendfsync everysec unless another is named; "
            "mixed runs with everysec keep theirs in memory, where no sync stalls",
            "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory()}, {platform.system()} "
            f"{platform.release()}",
            "Python and driver": f"{platform.python_version()}, redis-py {version('redis')}",
            "took": f"{self.minutes:.1f} minutes",
        }


def text_of(circumstances: Circumstances, figures: Sequence[Figure]) -> str:
    """Return the whole page."""
    parts = [_BEGIN, _table(circumstances.rows())]
    for figure in figures:
        parts.append(f"\n## {figure.name}: {figure.title}\n\n{_table(figure.rows)}")
        for problem in figure.problems:
            parts.append(f"\n**Broken:** {problem}\n")
        for missed in figure.missed:
            parts.append(f"\n**Target missed:** {missed}\n")
    return "".join((*parts, _END))


def write(circumstances: Circumstances, figures: Sequence[Figure]) -> None:
    """Write the page."""
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(text_of(circumstances, figures), encoding="utf-8")


def show(figure: Figure) -> None:
    """Print one figure as it is ready."""
    print(f"\n{figure.name}  {figure.title}  ({figure.seconds:.0f} s)")
    width = max(map(len, figure.rows), default=0)
    for name, value in figure.rows.items():
        print(f"  {name:{width}}  {value}")
    for problem in figure.problems:
        print(f"  BROKEN: {problem}")
    for missed in figure.missed:
        print(f"  TARGET MISSED: {missed}")
    sys.stdout.flush()


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(("| what | found |", "|---|---|", *lines)) + "\n"


def commit() -> str:
    """Return the commit of this checkout, and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(("git", *arguments), cwd=_ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"`{git('rev-parse', '--short=12', 'HEAD') or 'unknown'}`{changed}"


def _file_system() -> str:
    """Return the type of the file system that temporary folders lie on."""
    import tempfile

    found = subprocess.run(
        ("stat", "--file-system", "--format=%T", tempfile.gettempdir()),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.strip() or "an unknown file system"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown memory"
