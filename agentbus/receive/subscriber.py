"""A subscriber: one agent served by this process, incarnation after incarnation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self

from agentbus.errors import BrokerUnavailable
from agentbus.message.address_policy import NO_POLICY, Policy
from agentbus.message.backoff import Backoff
from agentbus.receive.agent import Agent
from agentbus.receive.context import Publish
from agentbus.receive.delivery import Answer, Delivery, ReceiptMark
from agentbus.receive.execution import Execution, Surroundings
from agentbus.receive.incarnation import Grounds, Incarnation
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
        companions: Sequence[Companion] = (),
        receipt: Callable[[Delivery], ReceiptMark | None] = lambda _delivery: None,
    ) -> None:
        self.agent = agent
        self._companions = companions
        self._grounds = grounds
        self._obituary = Obituary(grounds.events, answer)
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()
        self._incarnation: Incarnation | None = None
        self._joined_before = False
        self.execution = Execution(
            agent,
            Surroundings(
                publish=publish,
                answer=answer,
                server_ms=self._server_ms,
                siblings=self._siblings,
                policy=self.policy,
                receipt=receipt,
            ),
        )

    @property
    def incarnation(self) -> Incarnation | None:
        """The present life, while there is one."""
        return self._incarnation

    def stop(self) -> None:
        """Begin a graceful stop: read no more, hand back what has not begun, finish what runs."""
        self._stop.set()

    async def run(self, runners: int | None = None) -> None:
        """Serve until stopped; begin anew under another name whenever the lease was lost.

        ``runners`` 0 = deliveries are pulled, not run here. Raises what a failed child raised.
        """
        count = self.agent.concurrency if runners is None else runners
        try:
            async with AsyncExitStack() as accompanied:
                while not self._stop.is_set():
                    if await self._join(count):
                        assert self._incarnation is not None
                        if not self.ready.is_set():
                            await self._begin_companions(accompanied)
                        await self._live(self._incarnation)
        finally:
            self.execution.close()

    async def _begin_companions(self, accompanied: AsyncExitStack) -> None:
        for companion in self._companions:
            await companion.begin()
            accompanied.push_async_callback(companion.end)
        if self._companions:
            # Entered last, so that it is left first: nothing runs any more when the ends are called.
            await accompanied.enter_async_context(_Together(self._companions))

    async def _join(self, runners: int) -> bool:
        """Join as soon as the broker can be reached; False when stopped before.

        Under a new name each time: a join whose reply was lost has taken the old one.
        """
        backoff = Backoff()
        while not self._stop.is_set():
            incarnation = Incarnation(self.agent, self._grounds, self.execution, self._obituary.tell, runners)
            try:
                unserved = await incarnation.join()
            except BrokerUnavailable:
                await asyncio.sleep(backoff.next_pause())
                continue
            self._report_lost_data(unserved)
            self._incarnation = incarnation
            return True
        return False

    def _report_lost_data(self, unserved: Sequence[str]) -> None:
        """An address that this process has served and the broker does not know was lost with its data."""
        for address in unserved if self._joined_before else ():
            self._grounds.events.emit(
                "data_lost", address, "the broker has forgotten that it was ever served"
            )
        self._joined_before = True

    async def _live(self, incarnation: Incarnation) -> None:
        try:
            await incarnation.live(self._stop, self.ready.set)
        except BaseExceptionGroup as group:
            # One failed child ended the others; the user wants its error, not the group around it.
            _, rest = group.split(asyncio.CancelledError)
            if rest is not None:
                raise first_error(rest) from group
            raise

    def _server_ms(self) -> float:
        assert self._incarnation is not None
        return self._incarnation.lease.server_ms()

    def policy(self, address: str, message_type: str) -> Policy:
        """The declared policy of an address this subscriber serves, for one message type."""
        return self._incarnation.policy(address, message_type) if self._incarnation is not None else NO_POLICY

    def _siblings(self, address: str) -> int:
        return self._incarnation.siblings(address) if self._incarnation is not None else 1


class _Together:
    """Runs companions until it is left; one that fails fails whoever is inside."""

    def __init__(self, companions: Sequence[Companion]) -> None:
        self._companions = companions
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._tasks = [
            self._group.create_task(companion.run(), name="agentbus companion")
            for companion in self._companions
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)


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


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error inside nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
