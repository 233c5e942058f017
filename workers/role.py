"""What a role is, and what it is given."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from agentbus.broker.worker_registry import RoleState
from agentbus.bus import Bus
from agentbus.errors import AgentBusError, BrokerRefused
from workers.settings import WorkerSettings
from workers.share import Share
from workers.standing import Standing

logger = logging.getLogger("agentbus.workers")

#: Pauses after a failed step, in seconds: from the first to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
#: Seconds until the same refusal of the same address is logged again.
_AGAIN = 600.0
#: Seconds for which the latest of what came late is shown.
_SHOWN = 10.0


@dataclass(slots=True)
class Report:
    """What a role says of itself; the registry of workers shows it."""

    lag_ms: int | None = None
    steps: int = 0
    last_error: str = ""
    error_at: int | None = None
    #: Why it does nothing, on purpose; empty while it works.
    idle: str = ""
    _late_at: float | None = None

    def late(self, milliseconds: int) -> None:
        """Note how late something was; the worst of the last ten seconds is the lag, without any it is 0.

        Else one late message would look like a worker that is behind until the next one comes.
        """
        now = time.monotonic()
        if self._late_at is None or now - self._late_at > _SHOWN or milliseconds >= (self.lag_ms or 0):
            self.lag_ms, self._late_at = milliseconds, now

    def failed(self, error: Exception, address: str = "") -> None:
        """Note an error, at one address or at all, that the role will get over by trying again."""
        self.last_error = f"{type(error).__name__}: {address}{': ' * bool(address)}{error}"
        self.error_at = int(time.time() * 1000)

    def state(self) -> RoleState:
        """Return a frozen copy."""
        over = self._late_at is not None and time.monotonic() - self._late_at > _SHOWN
        return RoleState(0 if over else self.lag_ms, self.steps, self.last_error, self.error_at, self.idle)


@dataclass(frozen=True, slots=True)
class Ground:
    """What every role of one worker process shares."""

    bus: Bus
    settings: WorkerSettings
    share: Share
    #: Whether the broker takes what this process writes.
    standing: Standing = field(default_factory=Standing)
    #: Set when the process is to stop: a role ends its step and returns.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, seconds: float) -> None:
        """Wait, with jitter, but not longer than until the process stops."""
        try:
            async with asyncio.timeout(seconds * random.uniform(0.85, 1.15)):
                await self.stopping.wait()
        except TimeoutError:
            return


class Role(ABC):
    """One job. Its life: `start`, `run` until `Ground.stopping` is set, `stop`.

    Several processes run the same role at once, and each may be killed at any instruction: every write is a
    script that leaves all or nothing behind and can be repeated.
    """

    #: As it is called on the command line.
    name: ClassVar[str]
    #: One sentence for people.
    summary: ClassVar[str]

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.report = Report()
        #: (address, what was said of it) to when.
        self._said: dict[tuple[str, str], float] = {}

    async def start(self) -> None:
        """Prepare; an error ends the process with its reason."""
        return

    @abstractmethod
    async def run(self) -> None:
        """Work until the process stops. Returning earlier, or an error, ends the process."""

    async def stop(self) -> None:
        """Let go of what `start` took."""
        return

    @contextmanager
    def apart(self, address: str) -> Iterator[None]:
        """Keep what the broker refuses at one address (a key of another type, no right to it) from stopping
        the work at all others: it is noted, and the block ends."""
        try:
            yield
        except BrokerRefused as error:
            self.refused(address, error)

    def refused(self, address: str, error: Exception) -> None:
        """Note what is wrong with one address. The log has it once in ten minutes, not with each walk."""
        self.report.failed(error, address)
        now, what = time.monotonic(), (address, str(error))
        if now - self._said.get(what, -_AGAIN) >= _AGAIN:
            self._said = {said: at for said, at in self._said.items() if now - at < _AGAIN} | {what: now}
            logger.warning("%s: %s: %s", self.name, address, error, extra={"role": self.name})

    async def every(self, interval: float, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step each ``interval`` seconds until the process stops.

        What the broker or the archive refuses or cannot do is noted, and the step tried again after a pause
        that grows; any other error is a mistake of ours and ends the process.
        """
        pause, trouble = _FIRST_PAUSE, ""
        while not self.ground.stopping.is_set():
            try:
                await step()
            except AgentBusError as error:
                self.report.failed(error)
                # Once, not with each attempt: an outage of an hour is one event.
                if self.report.last_error != trouble:
                    trouble = self.report.last_error
                    logger.warning("%s: %s", self.name, trouble, extra={"role": self.name})
                await self.ground.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if trouble:
                    logger.info("%s goes on", self.name, extra={"role": self.name})
                self.report.steps += 1
                pause, trouble = _FIRST_PAUSE, ""
                await self.ground.pause(interval)
