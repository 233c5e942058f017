"""A unified diff, read: the files as they are after it, and which of their lines are new."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,\d+)? @@")


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """One file after the change."""

    name: str
    text: str
    #: Numbers of the lines that the change added or rewrote.
    new_lines: tuple[int, ...]


def read_diff(diff: Path, before: Path) -> list[ChangedFile]:
    """Return the changed files of ``diff``, applied to the files in the folder ``before``.

    Raises `ValueError` when the diff does not fit.
    """
    return [_apply(name, hunks, before) for name, hunks in _files(diff.read_text().splitlines())]


def _files(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    name, hunks = "", list[str]()
    for line in lines:
        if line.startswith("--- "):
            if name:
                yield name, hunks
            name, hunks = "", []
        elif line.startswith("+++ "):
            name = line.removeprefix("+++ ").removeprefix("b/").strip()
        else:
            hunks.append(line)
    yield name, hunks


def _apply(name: str, hunks: list[str], before: Path) -> ChangedFile:
    source = before / name
    old = source.read_text().splitlines() if source.exists() else []
    new: list[str] = []
    added: list[int] = []
    at = 0
    for line in hunks:
        hunk = _HUNK.match(line)
        if hunk:
            start = max(0, int(hunk[1]) - (hunk[2] != "0"))
            new += old[at:start]
            at = start
            continue
        mark, rest = line[:1], line[1:]
        if mark != "+" and (at >= len(old) or old[at] != rest):
            raise ValueError(f"{name}: line {at + 1} is not {rest!r}")
        at += mark != "+"
        if mark != "-":
            new.append(rest)
        if mark == "+":
            added.append(len(new))
    return ChangedFile(name, "\n".join([*new, *old[at:]]) + "\n", tuple(added))
