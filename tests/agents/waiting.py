"""Waiting for conditions: tests never sleep for a time they hope is long enough."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Value = TypeVar("Value")


@overload
async def eventually(
    check: Callable[[], Awaitable[Value]], within: float = 10.0, pause: float = 0.01
) -> Value: ...
@overload
async def eventually(check: Callable[[], Value], within: float = 10.0, pause: float = 0.01) -> Value: ...
async def eventually(check: Callable[[], Any], within: float = 10.0, pause: float = 0.01) -> Any:
    """Return the first true value of ``check``; fail with its last value after ``within`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        found = check()
        value = await found if inspect.isawaitable(found) else found
        if value:
            return value
        if loop.time() > deadline:
            raise AssertionError(f"not within {within} s; last seen: {value!r}")
        await asyncio.sleep(pause)


async def stays(check: Callable[[], Any], for_seconds: float, pause: float = 0.05) -> None:
    """Fail as soon as ``check`` is not true during ``for_seconds``: for what must not happen."""
    loop = asyncio.get_running_loop()
    end = loop.time() + for_seconds
    while loop.time() < end:
        found = check()
        value = await found if inspect.isawaitable(found) else found
        assert value
        await asyncio.sleep(pause)
