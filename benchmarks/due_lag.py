"""How late delayed messages come due: ``python -m benchmarks.due_lag [addresses] [seconds] [workers]``.

One message to each address, due at times spread evenly over some seconds, with real worker processes on a
broker of its own. Late is the time of the entry in its lane, given by the server, minus the time it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from agentbus import Bus
from agentbus.broker.embedded import PrivateBroker
from agentbus.broker.inbox import Inbox

#: Seconds per address from the first publish to the first due time: everything is stored before.
_PER_ADDRESS = 0.003


async def measure(url: str, count: int, spread: float) -> list[int]:
    """Publish, wait until all have come due, and return how late each was, in ms."""
    async with Bus(url, agent="bench") as bus:
        inboxes = [Inbox(bus.rooms.broker, bus.settings.prefix, f"agent.a{n}") for n in range(count)]
        first = time.time() + 2.0 + count * _PER_ADDRESS
        for start in range(0, count, 500):
            await asyncio.gather(
                *[
                    bus.publish(
                        f"{inbox.address}.task", None, delay=first - time.time() + spread * random.random()
                    )
                    for inbox in inboxes[start : start + 500]
                ]
            )
        due = await _times(bus, [("ZRANGE", inbox.keys.due, 0, 0, "WITHSCORES") for inbox in inboxes])
        await asyncio.sleep(max(0.0, first + spread - time.time()))
        while True:
            entries = await _times(bus, [("XRANGE", inbox.keys.sources[3], "-", "+") for inbox in inboxes])
            if all(entries):
                break
            await asyncio.sleep(0.5)
        return [
            int(entry[0][0].split(b"-")[0]) - int(score[1]) for entry, score in zip(entries, due, strict=True)
        ]


async def _publish(bus: Bus, inbox: Inbox, first: float, spread: float) -> None:
    await bus.publish(f"{inbox.address}.task", None, delay=first - time.time() + spread * random.random())


async def _times(bus: Bus, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    found: list[Any] = []
    for start in range(0, len(commands), 500):
        found += await bus.rooms.broker.pipeline(commands[start : start + 500])
    return found


def main() -> None:
    """Measure once and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("addresses", nargs="?", type=int, default=10_000)
    parser.add_argument("seconds", nargs="?", type=float, default=20.0)
    parser.add_argument("workers", nargs="?", type=int, default=1)
    options = parser.parse_args()
    server = PrivateBroker()
    server.start()
    command = [
        sys.executable,
        "-m",
        "workers",
        "due",
        "reclaim",
        "--url",
        server.url,
        "--log-level",
        "warning",
    ]
    workers = [subprocess.Popen(command) for _ in range(options.workers)]
    try:
        late = sorted(asyncio.run(measure(server.url, options.addresses, options.seconds)))
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
        server.close()
    named = {"median": 0.5, "p99": 0.99, "p99.9": 0.999}
    figures = {name: late[int(share * (len(late) - 1))] for name, share in named.items()}
    print(json.dumps({**vars(options), **figures, "most": late[-1], "unit": "ms late"}))


if __name__ == "__main__":
    main()
