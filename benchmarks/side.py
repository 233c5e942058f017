"""One side of a measurement in a process of its own: `python -m benchmarks.side <candidate> <address>`.

Reads one JSON command per line from standard input and answers with one JSON line. The first line it writes
says whether it could start: `{"ready": {package: version}}` or `{"error": "..."}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Any

from . import measures
from .candidates import load
from .protocol import Candidate

CLOSE_DEADLINE = 3.0


async def _obey(candidate: Candidate, command: dict[str, Any]) -> dict[str, Any]:
    queue, count = command["queue"], command.get("count", 0)
    match command["do"]:
        case "prepare":
            await candidate.prepare(queue)
            return {}
        case "fill":
            await candidate.prepare(queue)
            await candidate.fill(queue, count)
            return {}
        case "publish":
            return {"rate": await measures.publish_rate(candidate, queue, count)}
        case "consume":
            return {"rate": await measures.consume_rate(candidate, queue, count, command["limit"])}
        case "latency":
            return {"samples": await measures.idle_latencies(candidate, queue, count)}
        case unknown:
            raise ValueError(f"unknown command {unknown!r}")


def _tell(answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


async def _serve(candidate: Candidate) -> None:
    await candidate.open()
    _tell({"ready": candidate.versions()})
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                _tell(await _obey(candidate, json.loads(line)))
            except Exception as error:  # the runner decides what a failed measurement means
                _tell({"error": f"{type(error).__name__}: {error}"})
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(candidate.close(), CLOSE_DEADLINE)


async def _serve_and_leave(candidate: Candidate) -> None:
    """Leave without asyncio's tidying: a task that swallows its cancellation would hold it up for ever."""
    await _serve(candidate)
    answers.flush()
    os._exit(0)


def main() -> None:
    name, address = sys.argv[1:]
    try:
        candidate = load(name)(address)
    except ImportError as error:
        _tell({"error": f"not installed: {error}"})
        return
    try:
        asyncio.run(_serve_and_leave(candidate))
    except Exception as error:
        _tell({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    # Libraries that print must not get between the answers: they keep standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main()
