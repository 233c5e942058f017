"""One side of a measurement in a process of its own: `python -m benchmarks.side <candidate> <address>`.

The first line it writes says whether it could start: `{"ready": {package: version}}` or `{"error": "..."}`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import measures
from .catalogue import CATALOGUE, load
from .lines import Talk
from .many_side import ManySide

if TYPE_CHECKING:
    from .protocol import Candidate

CLOSE_DEADLINE = 3.0


async def _obey(candidate: Candidate, command: dict[str, Any]) -> dict[str, Any]:
    queue, count = command["queue"], command["count"]
    match command["do"]:
        case "prepare":
            await candidate.prepare(queue)
        case "fill":
            await candidate.prepare(queue)
            if command["size"]:
                candidate.payload = b"x" * command["size"]
            await candidate.fill(queue, count)
        case "discard":
            await candidate.discard(queue)
        case "publish":
            return {"rate": await measures.publish_rate(candidate, queue, count)}
        case "consume" | "consume some" as do:
            empties = do == "consume"
            return {"rate": await measures.consume_rate(candidate, queue, count, command["limit"], empties)}
        case "latency":
            return {"samples": await measures.idle_latencies(candidate, queue, count)}
        case unknown:
            raise ValueError(f"unknown command {unknown!r}")
    return {}


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed versions of the packages that do the work."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "from the source tree"
    return found


async def _serve(talk: Talk, name: str, candidate: Candidate) -> None:
    await candidate.open()
    talk.tell({"ready": {**_versions(CATALOGUE[name].packages), **candidate.server_versions()}})
    many = ManySide(candidate)

    async def obey(command: dict[str, Any]) -> dict[str, Any]:
        found = many.commands.get(command["do"])
        return await (found(command) if found else _obey(candidate, command))

    await talk.serve(obey)
    with suppress(TimeoutError):
        await asyncio.wait_for(candidate.close(), CLOSE_DEADLINE)
    # Leave without asyncio's tidying: a library that swallows its cancellation would hold it up for ever.
    os._exit(0)


def main() -> None:
    name, address = sys.argv[1:]
    talk = Talk()
    try:
        asyncio.run(_serve(talk, name, load(name)(address)))
    except ImportError as error:
        talk.tell({"error": f"not installed: {error}"})
    except Exception as error:
        talk.tell_error(error)


if __name__ == "__main__":
    main()
