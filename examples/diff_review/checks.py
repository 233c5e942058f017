"""The checks that the reviewers run: the syntax tree, and ruff. No language model anywhere."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator

from examples.diff_review.messages import Change, Finding

#: Rules of ruff that are worth an objection, not only a remark.
_SERIOUS = ("E722", "B006", "F821")


def tree_findings(change: Change) -> list[Finding]:
    """Return what the syntax tree shows in the new lines of a file."""
    return [finding for finding in _walk(change) if finding.line in change.new_lines]


def _walk(change: Change) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(change.text)):
        match node:
            case ast.FunctionDef(name=name, args=arguments):
                for default in (*arguments.defaults, *arguments.kw_defaults):
                    if isinstance(default, ast.List | ast.Dict | ast.Set):
                        said = f"{name}() shares one mutable default among all calls"
                        yield Finding(
                            file=change.file, line=default.lineno, rule="default", text=said, serious=True
                        )
            case ast.ExceptHandler(type=None, lineno=line):
                said = "a bare except hides KeyboardInterrupt and every mistake"
                yield _found(change, line, "except", said)
            case ast.Call(func=ast.Name(id="open"), lineno=line) if not _in_with(change, line):
                said = "nobody closes this file"
                yield _found(change, line, "open", said, serious=False)


def _in_with(change: Change, line: int) -> bool:
    return change.text.splitlines()[line - 1].lstrip().startswith("with ")


def ruff_findings(change: Change) -> list[Finding]:
    """Return what ruff says of the new lines of a file; raises `RuntimeError` when there is no ruff."""
    command = [
        sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E,F,B,SIM",
        "--output-format", "json", "--stdin-filename", change.file, "-",
    ]  # fmt: skip
    done = subprocess.run(command, input=change.text, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ruff is needed: pip install ruff ({done.stderr.strip()})")
    found = [
        Finding(
            file=change.file, line=item["location"]["row"], rule=item["code"], text=item["message"],
            serious=item["code"] in _SERIOUS,
        )
        for item in json.loads(done.stdout)
    ]  # fmt: skip
    return [finding for finding in found if finding.line in change.new_lines]


def _found(change: Change, line: int, rule: str, said: str, serious: bool = True) -> Finding:
    return Finding(file=change.file, line=line, rule=rule, text=said, serious=serious)
