"""What a forked process can be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos import agent, mill, publisher, zombie

_ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "publisher": publisher.run,
    "agent": agent.run,
    "zombie": zombie.run,
    "mill_publisher": mill.publish,
    "mill_agent": mill.serve,
    "worker": mill.work,
}


def play(role: str, options: dict[str, Any]) -> None:
    """Be one of the processes of a run until it ends."""
    asyncio.run(_ROLES[role](**options))
