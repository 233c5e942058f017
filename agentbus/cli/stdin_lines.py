"""The lines of stdin as they come, without blocking the event loop or the end of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator

#: A line and its number, counted from 1.
NumberedLine = tuple[int, str]

_READ_BYTES = 256 * 1024
#: Chunks that may wait to be sent; the reader then waits too, and with it whoever writes into the pipe.
_MOST_CHUNKS = 4


async def read_chunks() -> AsyncIterator[list[NumberedLine]]:
    """Yield the lines of stdin, as many at a time as are there."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[list[NumberedLine] | None] = asyncio.Queue(_MOST_CHUNKS)

    def hand_over(chunk: list[NumberedLine] | None) -> None:
        asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()

    def read() -> None:
        # The loop may have ended meanwhile: then nobody wants the rest.
        with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError):
            for chunk in _chunks(sys.stdin.fileno()):
                hand_over(chunk)
            hand_over(None)

    # A daemon, and os.read instead of sys.stdin: Ctrl-C must not wait for the next line, and a thread that
    # holds the lock of sys.stdin breaks the end of the interpreter.
    threading.Thread(target=read, name="agentbus stdin", daemon=True).start()
    while (chunk := await chunks.get()) is not None:
        yield chunk


def _chunks(descriptor: int) -> Iterator[list[NumberedLine]]:
    number, rest = 0, b""
    while data := os.read(descriptor, _READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [(number + index, _text(line)) for index, line in enumerate(lines, 1)]
            number += len(lines)
    if rest:
        yield [(number + 1, _text(rest))]


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")
