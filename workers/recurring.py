"""Recurring messages: each tick once, however many of these run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from agentbus.broker.keys import addresses, ticking
from agentbus.broker.schedules import SELF_TIMED, ScheduleStore, StoredSchedule, Tick
from agentbus.broker.wake import Claim, Wake
from agentbus.errors import AgentBusError, BrokerUnavailable, InvalidValue
from agentbus.schedules.definition import Definition
from agentbus.schedules.misfire import Step
from workers.role import Ground, Role, logger
from workers.walk import my_addresses

#: Addresses that one claim takes, and schedules of one address that one look takes.
_MOST_CLAIMED, _MOST_LOOKED_AT = 20, 100
#: Seconds between looks when nothing is known to come; also how long a new schedule can go unnoticed.
_LONGEST_PAUSE = 0.25
#: Until a tick that its address does not take is tried again.
_RETRY_MS = 1_000
#: Until a look at what cannot be read: somebody's hand wrote it, and has to write again.
_BROKEN_MS = 60_000
#: Seconds between passes over all addresses for those that nobody announced.
_SWEEP_INTERVAL = 30.0


class Recurring(Role):
    """Claims addresses whose ticks have come, and lets each tick happen by one script.

    The claim only saves work: two workers that look at one address at once send each tick once all the same.
    """

    name = "recurring"
    summary = "send what recurs, once for each tick"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        settings, broker = ground.bus.settings, ground.bus.rooms.broker
        self._broker = broker
        self._addresses = addresses(settings.prefix)
        self._store = ScheduleStore(broker, settings.prefix, settings.publisher.address_limit)
        self._ticking = Wake(broker, ticking(settings.prefix))
        self._definitions: dict[tuple[str, str], tuple[bytes, Definition]] = {}
        self._pause = 0.0

    async def run(self) -> None:
        """Send until the process stops; walk over all addresses now and then."""
        sweep = asyncio.create_task(self.every(_SWEEP_INTERVAL, self._sweep), name="agentbus recurring sweep")
        look = asyncio.create_task(self._look_until_stopped(), name="agentbus recurring look")
        tasks = (look, sweep)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
