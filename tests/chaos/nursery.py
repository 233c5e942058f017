"""Program: forks the processes of a run, and ends every one of them when the run ends in whatever way.

Forking from one process that has everything loaded makes a replacement in milliseconds. Reads one JSON
object per line on standard input and answers each with one line:
``{"do": "start", "role": "agent", "options": {...}}`` → ``{"pid": 1}``;
``{"do": "signal", "pid": 1, "signal": 9}`` → ``{"sent": true}``, false when the process had ended before;
``{"do": "ended"}`` → ``{"ended": [[pid, exit code], …]}``, each process once, a signal as its negative.
The end of standard input is the order to kill all and leave. The argument is the folder of the run, which
goes with them.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from tests.chaos import roles

_PR_SET_PDEATHSIG = 1


class Nursery:
    """The processes of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._living: set[int] = set()
        self._ended: list[tuple[int, int]] = []

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order and return the answer."""
        self._reap()
        if order["do"] == "start":
            return {"pid": self._fork(order["role"], order["options"])}
        if order["do"] == "signal":
            living = order["pid"] in self._living
            if living:
                os.kill(order["pid"], order["signal"])
            if living and order["signal"] == signal.SIGKILL:
                self._await_end(order["pid"])
            return {"sent": living}
        ended, self._ended = self._ended, []
        return {"ended": ended}

    def end_all(self) -> None:
        """Kill whatever lives; a stopped process dies of SIGKILL too."""
        for pid in tuple(self._living):
            os.kill(pid, signal.SIGKILL)
            self._await_end(pid)

    def _fork(self, role: str, options: dict[str, Any]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(role, options, parent)
        self._living.add(pid)
        return pid

    def _become(self, role: str, options: dict[str, Any], parent: int) -> NoReturn:
        code = 1
        try:
            _die_with_parent(parent)
            nothing = os.open(os.devnull, os.O_RDWR)
            said = os.open(self._folder / f"{role}-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for target, source in ((0, nothing), (1, said), (2, said)):
                os.dup2(source, target)
            roles.play(role, options)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for pid in tuple(self._living):
            self._note(*os.waitpid(pid, os.WNOHANG))

    def _await_end(self, pid: int) -> None:
        self._note(*os.waitpid(pid, 0))

    def _note(self, pid: int, status: int) -> None:
        if pid:
            self._living.discard(pid)
            self._ended.append((pid, os.waitstatus_to_exitcode(status)))


def _die_with_parent(parent: int) -> None:
    """Where Linux can, let a kill of the nursery itself end its processes too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def main() -> None:
    """Obey until the run ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    nursery = Nursery(folder)
    try:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(nursery.obey(json.loads(line))) + "\n")
            sys.stdout.flush()
    finally:
        nursery.end_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
