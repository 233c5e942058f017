"""A worker process that publishes the status faster than the real one: ``python -m tests.status_worker``."""

from __future__ import annotations

import asyncio
import signal
import sys

from agentbus.bus import Bus
from agentbus.settings import BusSettings
from workers.membership import new_worker_id
from workers.role import Ground
from workers.service import Service
from workers.settings import WorkerSettings
from workers.share import Share
from workers.status import Status


async def main(url: str, prefix: str, interval: str) -> None:
    """Work until SIGTERM."""
    async with Bus(url, agent="workers", settings=BusSettings(prefix=prefix)) as bus:
        ground = Ground(bus, WorkerSettings(status_interval=float(interval)), Share(new_worker_id()))
        service = Service(ground, [Status(ground)])
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stop)
        await service.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
