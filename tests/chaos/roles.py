"""What a forked process can be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos import agent, publisher, zombie

_ROLES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "publisher": publisher.run,
    "agent": agent.run,
    "zombie": zombie.run,
}


def play(role: str, options: dict[str, Any]) -> None:
    """Be one of the processes of a run until it ends."""
    asyncio.run(_ROLES[role](**options))
