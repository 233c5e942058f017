"""A subscriber: one agent served by this process, at its inboxes and at the channels that it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from agentbus.message.address_policy import NO_POLICY, Policy
from agentbus.receive.agent import Agent
from agentbus.receive.channel_lives import ChannelLives
from agentbus.receive.context import Publish
from agentbus.receive.delivery import Answer, Delivery, ReceiptMark
from agentbus.receive.execution import Execution, Surroundings
from agentbus.receive.grounds import Grounds
from agentbus.receive.incarnation import Incarnation
from agentbus.receive.life import Life, first_error
from agentbus.receive.parts import SendPart
from agentbus.receive.station import InboxStation
from agentbus.receive.takeover import Obituary


class Companion(Protocol):
    """What a served agent does beside handling messages: being known, say."""

    async def begin(self) -> None:
        """Called before the agent counts as ready; the broker could be reached a moment ago."""

    async def run(self) -> None:
        """Called when it is ready; cancelled when the agent is served no more. An error ends the agent."""

    async def end(self) -> None:
        """Called when the agent is served no more, if `begin` came to its end."""


class Subscriber:
    """Serves one agent until it is stopped."""

    def __init__(
        self,
        agent: Agent,
        grounds: Grounds,
        publish: Publish,
        answer: Answer,
        send_part: SendPart,
        companions: Sequence[Companion] = (),
        receipt: Callable[[Delivery], ReceiptMark | None] = lambda _delivery: None,
    ) -> None:
        self.agent = agent
        self._grounds = grounds
        self._companions = companions
        self._obituary = Obituary(grounds.events, answer)
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self._runners = agent.concurrency
        self._inboxes = Life(self._at_inboxes, grounds.events)
        around = Surroundings(
            publish=publish,
            answer=answer,
            send_part=send_part,
            server_ms=self._server_ms,
            siblings=self._siblings,
            policy=self.policy,
            receipt=receipt,
        )
        self.execution = Execution(agent, around)
        self._channels = ChannelLives(agent, grounds, self.execution)

    @property
    def incarnation(self) -> Incarnation | None:
        """The present life at the inboxes, while there is one."""
        return self._inboxes.incarnation

    def stop(self) -> None:
        """Begin a graceful stop: read no more, hand back what has not begun, finish what runs."""
        self._stop.set()

    async def run(self, runners: int | None = None) -> None:
        """Serve until stopped; begin anew under another name whenever a lease was lost.

        ``runners`` 0 = deliveries are pulled, not run here, and channels are not read. Raises what a failed
        child raised.
        """
        if runners is not None:
            self._runners = runners
        try:
            async with AsyncExitStack() as ends, asyncio.TaskGroup() as group:
                await self._serve(group, ends)
        except BaseExceptionGroup as failures:
            # One failed child ended the others; the user wants its error, not the group around it.
            _, rest = failures.split(asyncio.CancelledError)
            if rest is not None:
                raise first_error(rest) from failures
            raise
        finally:
            self.execution.close()

    async def _serve(self, group: asyncio.TaskGroup, ends: AsyncExitStack) -> None:
        name = self.agent.name
        lives = [group.create_task(self._inboxes.run(self._stop), name=f"agentbus inboxes {name}")]
        if not await self._inboxes.wait_ready(lives[0]):
            return
        for companion in self._companions:
            await companion.begin()
            ends.push_async_callback(companion.end)
        if self._runners:
            lives.append(group.create_task(self._channels.run(self._stop), name=f"agentbus channels {name}"))
            await self._channels.wait_ready(lives[1])
        self.ready.set()
        running = [
            group.create_task(companion.run(), name=f"agentbus companion {name}")
            for companion in self._companions
        ]
        await asyncio.wait(lives)
        for task in running:
            task.cancel()

    def _at_inboxes(self, came_back: bool) -> Incarnation:
        station = InboxStation(self.agent, self._grounds, self._obituary.tell)
        return Incarnation(self.agent, self._grounds, self.execution, station, self._runners)

    def _server_ms(self) -> float:
        assert self.incarnation is not None
        return self.incarnation.lease.server_ms()

    def policy(self, address: str, message_type: str) -> Policy:
        """The declared policy of an address this subscriber serves, for one message type."""
        return self.incarnation.policy(address, message_type) if self.incarnation is not None else NO_POLICY

    def _siblings(self, address: str) -> int:
        return self.incarnation.siblings(address) if self.incarnation is not None else 1


async def until_ready(running: asyncio.Task[None], subscribers: Sequence[Subscriber]) -> None:
    """Wait until all serve; raise what ended ``running`` before. A caller that gives up ends it."""
    ready = asyncio.create_task(_all_ready(subscribers))
    try:
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.wait((running,))
        raise
    finally:
        ready.cancel()
    if running.done():
        running.result()


async def _all_ready(subscribers: Sequence[Subscriber]) -> None:
    for subscriber in subscribers:
        await subscriber.ready.wait()
