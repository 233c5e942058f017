"""Workers in the test's own loop, and as processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentbus import Bus
from tests.agents.waiting import eventually
from workers.membership import new_worker_id
from workers.role import Ground, Role
from workers.service import Service
from workers.settings import WorkerSettings
from workers.share import Share


@asynccontextmanager
async def working(bus: Bus, *kinds: type[Role], **settings: Any) -> AsyncIterator[dict[str, Role]]:
    """Run some roles on a bus for the length of a block; fails when one of them ends by itself."""
    ground = Ground(bus, WorkerSettings(**{"drain": 2.0, **settings}), Share(new_worker_id()))
    roles = [kind(ground) for kind in kinds]
    service = Service(ground, roles)
    task = asyncio.create_task(service.run())
    try:
        await eventually(lambda: ground.standing.beat_at is not None or task.done())
        yield {role.name: role for role in roles}
    finally:
        service.stop()
        await task


def worker_process(url: str, prefix: str, *roles: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start ``python -m workers``, with more in its environment; the caller ends it."""
    command = [sys.executable, "-m", "workers", *roles, "--url", url, "--prefix", prefix]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
