"""The channels that an agent reads: one life at each, begun and ended as the agent subscribes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentbus.receive.agent import Agent
from agentbus.receive.channel_station import ChannelStation
from agentbus.receive.execution import Execution
from agentbus.receive.following import Following
from agentbus.receive.grounds import Grounds
from agentbus.receive.incarnation import Incarnation
from agentbus.receive.life import Life


@dataclass(frozen=True, slots=True)
class _Reading:
    """One channel being read."""

    following: Following
    life: Life
    task: asyncio.Task[None]
    stop: asyncio.Event


class ChannelLives:
    """Reads the channels of one agent."""

    def __init__(self, agent: Agent, grounds: Grounds, execution: Execution) -> None:
        self._agent = agent
        self._grounds = grounds
        self._execution = execution
        self._readings: dict[str, _Reading] = {}
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Read what the agent subscribes to until ``stop`` is set; raises what a failed child raised."""
        forget = self._agent.on_change(self._look_again)
        try:
            async with asyncio.TaskGroup() as group:
                stopped = group.create_task(self._tell_stop(stop))
                while not stop.is_set():
                    self._changed.clear()
                    await self._follow(group)
                    self._ready.set()
                    await self._changed.wait()
                # What runs comes to its end first.
                if self._readings:
                    await asyncio.wait([reading.task for reading in self._readings.values()])
                stopped.cancel()
        finally:
            forget()

    async def wait_ready(self, living: asyncio.Task[None]) -> None:
        """Wait until every channel is read, or until ``living``, which runs this, has ended."""
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ready, living), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()

    async def _tell_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        for reading in self._readings.values():
            reading.stop.set()
        self._changed.set()

    def _look_again(self) -> None:
        wanted = self._agent.following
        for name, reading in self._readings.items():
            if wanted.get(name) != reading.following:
                # At once: what is begun after this would overtake what is handed back because its handler
                # has gone.
                reading.stop.set()
                if reading.life.incarnation is not None:
                    reading.life.incarnation.begin_nothing()
        self._changed.set()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        """Begin what is new, and what is to be read otherwise when it has come to its end.

        A handler that is long at one channel holds up neither the end nor the begin of another.
        """
        for name in [name for name, reading in self._readings.items() if reading.task.done()]:
            del self._readings[name]
        wanted = self._agent.following
        begun = [self._begin(group, wanted[name]) for name in wanted if name not in self._readings]
        for reading in begun:
            await reading.life.wait_ready(reading.task)

    def _begin(self, group: asyncio.TaskGroup, following: Following) -> _Reading:
        def incarnation(came_back: bool) -> Incarnation:
            station = ChannelStation(self._agent, following, self._grounds, came_back)
            runners = following.concurrency
            return Incarnation(self._agent, self._grounds, self._execution, station, runners)

        life, stop = Life(incarnation, self._grounds.events), asyncio.Event()
        name = f"agentbus channel {self._agent.name} {following.address}"
        reading = _Reading(following, life, group.create_task(life.run(stop), name=name), stop)
        reading.task.add_done_callback(lambda _: self._changed.set())
        self._readings[following.address] = reading
        return reading
