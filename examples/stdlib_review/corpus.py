"""Which files there are to review, and how urgent each one is."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from agentbus.message.policy import Priority
from examples.stdlib_review.messages import FileTask

#: What most programs import.
_CRITICAL = frozenset(
    ("os.py", "typing.py", "dataclasses.py", "subprocess.py", "logging/__init__.py", "json/decoder.py",
     "asyncio/base_events.py", "functools.py")
)  # fmt: skip
_TESTS = frozenset(("test", "tests", "idle_test"))
_SELDOM_USED = frozenset(("idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data", "tkinter"))
_NOT_THE_LIBRARY = frozenset(("site-packages", "dist-packages", "__pycache__"))


def library_folder() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_tasks(folder: Path, limit: int | None = None) -> list[FileTask]:
    """Return a task for each ``.py`` file, sorted by name; with a limit, that many spread over all."""
    files = sorted(
        file for file in folder.rglob("*.py") if not _NOT_THE_LIBRARY & set(file.relative_to(folder).parts)
    )
    if limit is not None and limit < len(files):
        files = [files[position * len(files) // limit] for position in range(limit)]
    return [FileTask(str(file), file.relative_to(folder).as_posix()) for file in files]


def priority(name: str) -> Priority:
    """Return how urgent the review of a file is: the more programs depend on it, the more."""
    folders = name.split("/")[:-1]
    if name in _CRITICAL:
        return "critical"
    if _TESTS & set(folders):
        return "low"
    if _SELDOM_USED & set(folders):
        return "background"
    return "normal" if folders else "high"
