"""What a forked process can be."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos import agent, mill, person, publisher, sender, subscriber, zombie


async def _become_workers(*, url: str, folder: str, archive: str, roles: list[str]) -> None:
    """Be what a user starts: this process becomes ``python -m workers``."""
    command = ["-m", "workers", *roles, "--url", url, "--archive", archive]
    os.execv(sys.executable, [sys.executable, *command])


_ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "publisher": publisher.run,
    "sender": sender.run,
    "person": person.run,
    "agent": agent.run,
    "subscriber": subscriber.run,
    "zombie": zombie.run,
    "mill_publisher": mill.publish,
    "mill_agent": mill.serve,
    "worker": mill.work,
    "workers": _become_workers,
}


def play(role: str, options: dict[str, Any]) -> None:
    """Be one of the processes of a run until it ends."""
    asyncio.run(_ROLES[role](**options))
