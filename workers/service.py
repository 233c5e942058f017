"""The life of a worker process: start, run, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from agentbus.errors import AgentBusError, BrokerError, BrokerUnavailable, ConfigurationError
from agentbus.receive.life import first_error
from workers.membership import Membership
from workers.role import Ground, Role, logger

_Task = asyncio.Task[None]
#: Seconds that what was cancelled gets to clean up after itself.
_LAST_WORDS = 1.0


class RoleEnded(Exception):
    """A role did not start, returned or failed although nobody asked it to stop."""


class Service:
    """Runs roles side by side. One that ends stops the process, with the reason: half a worker that looks
    alive would be worse than none."""

    def __init__(self, ground: Ground, roles: Sequence[Role]) -> None:
        self._ground = ground
        self._roles = roles
        self._started: list[Role] = []
        self._membership = Membership(ground, roles)
        #: Set when the process is not to wait any longer for what its roles are doing.
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Ask for a stop: `run` returns when every role has ended its step; asked again, at once."""
        if self._ground.stopping.is_set():
            self._hurry.set()
        self._ground.stopping.set()

    async def run(self) -> None:
        """Run until stopped.

        Raises `RoleEnded` when a role ends by itself, `ConfigurationError` when one can never start, and
        `BrokerError` when the broker cannot be reached at the start: whoever supervises starts us again.
        """
        try:
            if await self._started_unless_stopped():
                await self._run_roles()
        finally:
            self._ground.stopping.set()
            await self._let_go()

    async def _start(self) -> None:
        for role in self._roles:
            # Noted before: one that fails half way through has something to let go of, too.
            self._started.append(role)
            try:
                await role.start()
            except (ConfigurationError, BrokerUnavailable):
                raise
            except Exception as error:
                raise _ended(role.name, "it did not start: " + _why(error), error) from error
        await self._membership.beat()

    async def _started_unless_stopped(self) -> bool:
        """Start, but not against an order to stop: a role may wait long for what it needs."""
        starting, asked = _task(self._start(), "start"), _task(_set(self._ground.stopping), "stopping")
        try:
            await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel((starting, asked))
        if starting.cancelled() or not starting.done():
            return False
        starting.result()
        return True

    async def _run_roles(self) -> None:
        roles = {_task(role.run(), role.name): role.name for role in self._roles}
        beat = _task(self._membership.run(), "beat")
        asked = _task(_set(self._ground.stopping), "stopping")
        try:
            await asyncio.wait({*roles, beat, asked}, return_when=asyncio.FIRST_COMPLETED)
            early = not self._ground.stopping.is_set()
            self._ground.stopping.set()
            ended = next((task for task in (*roles, beat) if task.done()), None) if early else None
            await self._drain(roles)
        finally:
            await _cancel((*roles, beat, asked))
        self._judge({**roles, beat: "beat"}, ended)

    async def _drain(self, roles: dict[_Task, str]) -> None:
        """Wait until every role has ended its step, no longer than the setting; beats go on meanwhile."""
        hurry, working = _task(_set(self._hurry), "hurry"), asyncio.gather(*roles, return_exceptions=True)
        drain = self._ground.settings.drain
        await asyncio.wait((hurry, working), timeout=drain, return_when=asyncio.FIRST_COMPLETED)
        why = "asked again" if self._hurry.is_set() else f"{drain:g} s have passed"
        for task, name in roles.items():
            if not task.done():
                logger.warning("%s is cut off in the middle of a step: %s", name, why)
        await _cancel((hurry,))

    def _judge(self, tasks: dict[_Task, str], ended: _Task | None) -> None:
        """Raise what ended the process; a failure during the stop is not lost either."""
        if ended is not None:
            error = None if ended.cancelled() else ended.exception()
            why = "it was cancelled" if ended.cancelled() else "it returned" if error is None else _why(error)
            raise _ended(tasks[ended], why, error)
        for task, name in tasks.items():
            error = task.exception() if task.done() and not task.cancelled() else None
            if error is not None:
                raise _ended(name, "it failed while stopping: " + _why(error), error)

    async def _let_go(self) -> None:
        for role in reversed(self._started):
            try:
                await role.stop()
            except Exception as error:
                # The others must let go all the same.
                logger.error("%s did not stop cleanly: %s", role.name, _why(error))
        # The others notice by themselves when the broker is away.
        with contextlib.suppress(BrokerError):
            await self._membership.leave()


def _task(running: Coroutine[Any, Any, None], name: str) -> _Task:
    return asyncio.create_task(running, name=f"agentbus {name}")


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _cancel(tasks: Sequence[_Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_LAST_WORDS)


def _why(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        # A role of several tasks: the error itself says more than the group around it.
        error = first_error(error)
    return f"{type(error).__name__}: {error}"


def _ended(name: str, why: str, error: BaseException | None) -> RoleEnded:
    # The way there is worth many lines only where it may be a mistake of ours.
    trace = None if isinstance(error, AgentBusError) else error
    logger.error("%s ended: %s", name, why, exc_info=trace)
    ended = RoleEnded(f"{name} ended: {why}")
    ended.__cause__ = error
    return ended
