"""Publishes how the bus does: one message on ``system.bus.status`` each 15 seconds, whoever is there for it.

The ticks are those of a schedule in the slot of the channel: the script that adds the message compares the
tick first and moves on to the next one in the same step, so that of any number of workers one publishes.
"""

from __future__ import annotations

import random
from typing import ClassVar

from agentbus.broker.schedules import SELF_TIMED, ScheduleStore, Tick
from agentbus.errors import BrokerRefused
from agentbus.schedules.definition import Definition
from agentbus.send.envelope import Sender, compose
from agentbus.status.reading import ADDRESS, MESSAGE_TYPE, last_published, read_status
from workers.role import Ground, Role

#: Seconds between looks at the time of the server.
_LOOK = 0.25
_SCHEDULE = "status"
_TOPIC = f"{ADDRESS}.{MESSAGE_TYPE}"


class Status(Role):
    """Computes the status and lets the tick happen."""

    name: ClassVar[str] = "status"
    summary: ClassVar[str] = "publish how the bus does on system.bus.status"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        settings = ground.bus.settings
        self._broker = ground.bus.rooms.broker
        self._prefix = settings.prefix
        self._message_bytes = settings.publisher.message_bytes
        self._store = ScheduleStore(self._broker, self._prefix, settings.publisher.address_limit)
        self._interval_ms = int(ground.settings.status_interval * 1000)
        # How late a tick is before another worker does it than the one whose share it is: from 2 s on, and
        # those who step in do not all begin at once.
        self._patience_ms = self._interval_ms * 2 // 15 * random.uniform(1, 2)
        # A tick that is later than this is passed over: its numbers would be those of the next one.
        self._too_late_ms = self._interval_ms * 2 // 3

    async def run(self) -> None:
        """Look for the next tick until the process stops."""
        await self.every(_LOOK, self._look)

    async def _look(self) -> None:
        due = await self._store.due(SELF_TIMED, 10)
        ticks = [each.tick_ms for each in due.schedules if each.id == _SCHEDULE]
        if ticks and ticks[0] is not None:
            await self._consider(ticks[0], due.server_ms)
            return
        if due.next_ms is None:
            # The first worker of this bus, or the server lost its data.
            first_ms = grid_after(due.server_ms, self._interval_ms)
            await self._store.add(SELF_TIMED, _SCHEDULE, self._definition(first_ms), first_ms)
        self.report.lag_ms = 0

    async def _consider(self, tick_ms: int, server_ms: int) -> None:
        """Publish for a tick that has come, if that is this worker's part."""
        late_ms = server_ms - tick_ms
        self.report.lag_ms = late_ms
        if not self.ground.share.mine(self.name, SELF_TIMED) and late_ms < self._patience_ms:
            return
        next_ms = grid_after(server_ms, self._interval_ms)
        ticks = (next_ms - tick_ms) // self._interval_ms
        if late_ms > self._too_late_ms:
            step = Tick(tick_ms, next_ms, passed=ticks)
        else:
            step = Tick(tick_ms, next_ms, await self._message(tick_ms), passed=ticks - 1)
        answer = await self._store.tick(SELF_TIMED, _SCHEDULE, step)
        if answer.answer in ("full", "refused"):
            raise BrokerRefused(f"{ADDRESS} takes no status: {answer.detail or 'its log is full'}")

    async def _message(self, tick_ms: int) -> bytes:
        earlier = await last_published(self._broker, self._prefix)
        status = await read_status(self._broker, self._prefix, earlier)
        return compose(
            Sender("workers", "service"),
            _TOPIC,
            status.to_record(),
            {"metadata": {"tick_ms": tick_ms}},
            self._message_bytes,
        ).text

    def _definition(self, first_ms: int) -> bytes:
        """Return what `agentbus schedule` shows; its messages are made here, not from it."""
        return Definition(
            topic=_TOPIC,
            schedule=f"interval:{self._interval_ms // 1000}",
            timezone="UTC",
            owner=None,
            # Intervals count from here, so that a schedule that was paused goes on with the same ticks.
            created_at=first_ms - self._interval_ms,
            expires_at=None,
            misfire="skip",
            grace_ms=self._too_late_ms,
            lane=2,
            message={},
        ).to_json()


def grid_after(server_ms: int, interval_ms: int) -> int:
    """Return the next tick after a moment: whole intervals of the server's clock."""
    return server_ms - server_ms % interval_ms + interval_ms
