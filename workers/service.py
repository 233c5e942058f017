"""The life of a worker process: start, run, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from agentbus.errors import BrokerError
from agentbus.receive.subscriber import first_error
from workers.membership import Membership
from workers.role import Ground, Role, logger


class RoleEnded(Exception):
    """A role returned or failed although nobody asked it to stop."""


class Service:
    """Runs roles side by side. One that ends stops the process, with the reason: half a worker that looks
    alive would be worse than none."""

    def __init__(self, ground: Ground, roles: Sequence[Role]) -> None:
        self._ground = ground
        self._roles = roles
        self._membership = Membership(ground, roles)

    def stop(self) -> None:
        """Ask for a stop; `run` returns when every role has ended its step."""
        self._ground.stopping.set()

    async def run(self) -> None:
        """Run until stopped; raises `RoleEnded` when a role ends by itself."""
        started: list[Role] = []
        try:
            for role in self._roles:
                await role.start()
                started.append(role)
            await self._membership.beat()
            await self._run_roles()
        finally:
            self.stop()
            for role in reversed(started):
                await role.stop()
            # The others notice by themselves when the broker is away.
            with contextlib.suppress(BrokerError):
                await self._membership.leave()

    async def _run_roles(self) -> None:
        tasks = {
            asyncio.create_task(role.run(), name=f"agentbus {role.name}"): role.name for role in self._roles
        }
        tasks[asyncio.create_task(self._membership.run(), name="agentbus beat")] = "beat"
        asked = asyncio.create_task(self._ground.stopping.wait(), name="agentbus stopping")
        try:
            await asyncio.wait({*tasks, asked}, return_when=asyncio.FIRST_COMPLETED)
            ended = None if self._ground.stopping.is_set() else next(task for task in tasks if task.done())
            self.stop()
            await asyncio.wait(tasks, timeout=self._ground.settings.drain)
        finally:
            for task in (*tasks, asked):
                task.cancel()
            await asyncio.gather(*tasks, asked, return_exceptions=True)
        if ended is not None:
            raise _reason(tasks[ended], ended)


def _reason(name: str, task: asyncio.Task[None]) -> RoleEnded:
    error = task.exception()
    if isinstance(error, BaseExceptionGroup):
        # A role of several tasks: the error itself says more than the group around it.
        error = first_error(error)
    why = "it returned" if error is None else f"{type(error).__name__}: {error}"
    logger.error("%s ended: %s", name, why, exc_info=error)
    ended = RoleEnded(f"{name} ended: {why}")
    ended.__cause__ = error
    return ended
