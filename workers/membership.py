"""A worker's place among the others: it beats, and learns who lives."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Sequence

from agentbus import __version__
from agentbus.broker.server_clock import ServerClock, jump_told
from agentbus.broker.worker_registry import Roll, WorkerRegistry, WorkerState
from agentbus.errors import BrokerError
from agentbus.receive.lease import clock
from workers.role import Ground, Role, logger


def new_worker_id() -> str:
    """Return an id that people can read and no other process has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Membership:
    """Keeps one process in ``agentbus:workers`` and its share up to date."""

    def __init__(self, ground: Ground, roles: Sequence[Role]) -> None:
        self._ground = ground
        self._roles = roles
        self._registry = WorkerRegistry(ground.bus.rooms.broker, ground.bus.settings.prefix)
        self._server_clock = ServerClock()
        self._started_at = int(time.time() * 1000)

    async def beat(self) -> None:
        """Say how this process does, and learn who else lives."""
        sent_at = clock()
        roll = await self._registry.beat(self._state())
        self._look_at_clock(roll.server_ms, sent_at)
        self._learn(roll)
        self._ground.standing.beat_answered(sent_at)

    def _look_at_clock(self, server_ms: int, sent_at: float) -> None:
        jump = self._server_clock.saw(server_ms, sent_at, clock())
        if jump is not None:
            self._ground.bus.events.emit("clock_jump", "", jump_told(jump), seconds=jump)

    async def run(self) -> None:
        """Beat until cancelled; an order to stop is told to the others at once, who take over while we drain.

        An outage is no reason to stop: work goes on when it is over.
        """
        away = False
        while True:
            try:
                await self.beat()
                if away:
                    logger.info("the broker takes this worker's beat again")
                away = False
            except BrokerError as error:
                if not away:
                    logger.warning("the broker does not take this worker's beat: %s", error)
                away = True
            if self._ground.stopping.is_set():
                await asyncio.sleep(self._ground.settings.beat)
            else:
                await self._ground.pause(self._ground.settings.beat)

    async def leave(self) -> None:
        """Hand this process's share to the others at once."""
        await self._registry.leave(self._ground.share.worker_id)

    def _state(self) -> WorkerState:
        return WorkerState(
            id=self._ground.share.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            phase="draining" if self._ground.stopping.is_set() else "running",
            roles={role.name: role.report.state() for role in self._roles},
            version=__version__,
        )

    def _learn(self, roll: Roll) -> None:
        oldest = roll.server_ms - self._ground.settings.absent_after * 1000
        self._ground.share.update(
            # A role that is off does nobody's share.
            (worker.id, [name for name, state in worker.roles.items() if not state.idle])
            for worker in roll.workers
            if worker.seen_at >= oldest and worker.phase == "running"
        )
