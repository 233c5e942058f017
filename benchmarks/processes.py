"""Child processes with a life that ends: started in their own session, ended by their own id."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

POLITE_END = 5.0
"""Seconds a process gets to leave by itself before it is told to."""


class SideFailed(RuntimeError):
    """A side process could not start, broke or did not answer; the text says which."""


async def end(process: asyncio.subprocess.Process, patience: float = 10.0) -> None:
    """Ask a child to stop, insist after `patience` seconds. It leads a session: its own children go too."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def running(
    *command: str, log: Path, env: Mapping[str, str] | None = None, talk: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process for the length of a block. Its own session: Ctrl-C reaches only the runner."""
    pipe = asyncio.subprocess.PIPE
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe if talk else asyncio.subprocess.DEVNULL,
            stdout=pipe if talk else output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            limit=16 * 1024 * 1024,
        )
    try:
        yield process
    finally:
        await end(process)


class Side:
    """The runner's end of a side process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        assert process.stdin and process.stdout
        self._in, self._out, self._log = process.stdin, process.stdout, log
        self.versions: dict[str, str] = {}

    async def answer(self, limit: float) -> dict[str, Any]:
        """The next line, as an object; SideFailed for errors, silence over `limit` seconds and death."""
        try:
            line = await asyncio.wait_for(self._out.readline(), limit)
        except TimeoutError:
            raise SideFailed(f"no answer within {limit:.0f} s") from None
        if not line:
            raise SideFailed(f"the process ended: {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise SideFailed(found["error"])
        return found

    async def ask(
        self, do: str, queue: str = "", count: int = 0, limit: float = 60.0, size: int = 0
    ) -> dict[str, Any]:
        """Send one command and wait for its answer; `limit` in seconds."""
        command = {"do": do, "queue": queue, "count": count, "limit": limit, "size": size}
        with suppress(ConnectionError):  # the answer tells that the process is gone, and why
            self._in.write(json.dumps(command).encode() + b"\n")
            await self._in.drain()
        return await self.answer(limit + 15)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"


@asynccontextmanager
async def talking(command: tuple[str, ...], root: Path, log: Path, start_limit: float) -> AsyncIterator[Side]:
    """A side process that has said that it is ready; `root` is where the project's packages lie."""
    async with running(*command, log=log, env={"PYTHONPATH": str(root)}, talk=True) as process:
        found = Side(process, log)
        found.versions = (await found.answer(start_limit))["ready"]
        yield found
        assert process.stdin
        process.stdin.close()  # the polite end: connections are closed, nothing is left half done
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), POLITE_END)
