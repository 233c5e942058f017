"""A command on a terminal of its own, with somebody who types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.acceptance.cli_process import CommandLine

_SECONDS = 30.0
_LOOKS = {"TERM": "dumb", "COLUMNS": "120", "LINES": "40"}
#: Makes standard input the terminal that sends Ctrl-C as a signal, then becomes the command.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Shown(NamedTuple):
    """What became of a command."""

    #: All that the terminal showed, what was typed included.
    text: str
    code: int


def on_terminal(
    command: CommandLine, *arguments: str, dialogue: Sequence[tuple[str, str]] = (), **environment: str
) -> Shown:
    """Run a command; each time the first text of a pair is shown, type the second."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, "-m", "agentbus.cli", *arguments],
        cwd=command.folder, env={**command.environment, **_LOOKS, **environment},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        text = _converse(ours, list(dialogue))
        return Shown(text, process.wait(_SECONDS))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def _converse(terminal: int, left: list[tuple[str, str]]) -> str:
    shown, answered, deadline = b"", 0, time.monotonic() + _SECONDS
    while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            shown += os.read(terminal, 65_536)
        except OSError:
            # The command has closed its end.
            return shown.decode(errors="replace")
        if left and (place := shown.find(left[0][0].encode(), answered)) >= 0:
            answered = place + len(left[0][0].encode())
            os.write(terminal, left.pop(0)[1].encode())
    raise AssertionError(f"not over within {_SECONDS} s; shown: {shown!r}")
