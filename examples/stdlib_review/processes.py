"""The analysts as the coordinator sees them: processes with a journal, that can be stopped and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

#: Called with (analyst, word, message id) for each line of a journal.
OnLine = Callable[[str, str, str], None]

_END_SECONDS = 20.0


class AnalystProcess:
    """One analyst process. Starts at once."""

    def __init__(self, name: str, url: str, on_line: OnLine) -> None:
        self.name = name
        #: What it has begun and not finished.
        self.holding: set[str] = set()
        #: Set when its journal has ended, that is: when the process has.
        self.ended = asyncio.Event()
        self._on_line = on_line
        self._rest = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.stdlib_review.analyst", url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Ctrl-C is for the coordinator, which then ends the analysts in its own order.
            process_group=0,
        )
        assert self._process.stdout is not None
        self._journal = self._process.stdout.fileno()
        os.set_blocking(self._journal, False)
        asyncio.get_running_loop().add_reader(self._journal, self.read_journal)

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_journal(self) -> None:
        """Take in everything the process has written so far."""
        while not self.ended.is_set():
            try:
                data = os.read(self._journal, 65536)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._journal)
                self.ended.set()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                word, _, task_id = line.decode().partition(" ")
                self._note(word, task_id)

    def _note(self, word: str, task_id: str) -> None:
        if word == "begin":
            self.holding.add(task_id)
        elif word == "end":
            self.holding.discard(task_id)
        self._on_line(self.name, word, task_id)

    async def kill_while_holding(self) -> set[str]:
        """Kill it with SIGKILL in the middle of its work; return the messages it had begun.

        It is frozen first, and let go on if it holds nothing at that moment, so that there is no doubt.
        Empty when it ended by itself before.
        """
        while not self.ended.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            await asyncio.to_thread(_wait_frozen, self.pid)
            self.read_journal()
            if self.holding:
                os.kill(self.pid, signal.SIGKILL)
                await self.wait()
                return set(self.holding)
            os.kill(self.pid, signal.SIGCONT)
            await asyncio.sleep(0.01)
        return set()

    async def stop(self) -> int:
        """Ask it to stop with SIGTERM and wait: it finishes what it has begun. Returns its exit code."""
        if not self.ended.is_set():
            self._process.terminate()
        return await self.wait()

    async def wait(self) -> int:
        """Wait for its end, with a limit; return its exit code, negative for a signal."""
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.ended.wait()
        except TimeoutError:
            self._process.kill()
            await self.ended.wait()
        return await asyncio.to_thread(self._process.wait)

    def end_now(self) -> None:
        """Kill it if it still runs, and let go of everything. For the way out, whatever happened."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        asyncio.get_running_loop().remove_reader(self._journal)
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def last_words(self) -> str:
        """Return how it ended, and the end of what it wrote to standard error."""
        self._errors.seek(0)
        written = self._errors.read()[-2000:].decode(errors="replace").strip()
        code = self._process.poll()
        return f"exit {code}" if not written else f"exit {code}, and said:\n{written}"


def _wait_frozen(pid: int) -> None:
    """Wait until SIGSTOP has taken effect, or the process has ended; leaves its end for others to see."""
    if sys.platform == "darwin":
        # There is no waitid here; the signal is delivered long before this.
        time.sleep(0.05)
    else:
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
