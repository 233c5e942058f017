"""The durable wildcards that an agent declares, and whoever makes them hold while it is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Protocol

from agentbus.errors import ConfigurationError
from agentbus.message.patterns import parse_pattern


class Registrar(Protocol):
    """Makes a binding hold everywhere, and no longer."""

    async def bind(self, pattern: str) -> None:
        """Return when every publisher knows the binding."""

    async def unbind(self, pattern: str) -> None:
        """Return when no publisher knows the binding."""


class DeclaredBindings:
    """Patterns in the order in which they were declared."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._patterns: dict[str, None] = {}
        self._registrars: list[Registrar] = []
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def patterns(self) -> tuple[str, ...]:
        """All that hold, or will when the agent is served."""
        return tuple(self._patterns)

    def bind(self, pattern: str, everything: bool) -> Awaitable[None]:
        """Declare one more; see `Agent.bind`."""
        text = parse_pattern(pattern, everything=everything).text
        self._check_place()
        self._patterns[text] = None
        return self._change([registrar.bind(text) for registrar in self._registrars])

    def unbind(self, pattern: str) -> Awaitable[None]:
        """Take one back; see `Agent.unbind`."""
        text = parse_pattern(pattern, everything=True).text
        self._check_place()
        self._patterns.pop(text, None)
        return self._change([registrar.unbind(text) for registrar in self._registrars])

    def attach(self, registrar: Registrar) -> None:
        """The agent is served from now on."""
        self._registrars.append(registrar)

    def detach(self, registrar: Registrar) -> None:
        """It is served no more."""
        self._registrars.remove(registrar)

    async def settled(self) -> None:
        """Wait until what was begun holds."""
        if self._changes:
            await asyncio.wait(self._changes)

    def _check_place(self) -> None:
        """Refuse a change from a thread while the agent is served: nobody could carry it out there."""
        try:
            if self._registrars:
                asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                f"agent {self._agent} is being served: change its bindings in its event loop, not in a thread"
            ) from None

    def _change(self, steps: list[Coroutine[Any, Any, None]]) -> Awaitable[None]:
        if not steps:
            return _NotServed(self._agent)
        # A task, for a caller that does not wait: the binding is to hold all the same.
        task = asyncio.create_task(_all(steps), name=f"agentbus binding of {self._agent}")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return task


async def _all(steps: list[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*steps)


class _NotServed:
    """What a change is before the agent is served: declared, and nothing to wait for yet."""

    def __init__(self, agent: str) -> None:
        self._agent = agent

    def __await__(self) -> Generator[Any, None, None]:
        return self._refuse().__await__()

    async def _refuse(self) -> None:
        raise ConfigurationError(
            f"agent {self._agent} is not served yet, and its bindings hold from when it is; declare them "
            "without await, or wait inside `async with bus.serving(agent):`"
        )
