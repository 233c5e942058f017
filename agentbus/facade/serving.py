"""Serving agents, and pulling from inboxes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import (
    AsyncIterator,
    Iterator,
)
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentbus.errors import ConfigurationError
from agentbus.facade.calls import Calls
from agentbus.message.durations import Duration
from agentbus.message.topics import check_name

if TYPE_CHECKING:
    from agentbus.receive.agent import Agent
    from agentbus.receive.pulling import PulledDelivery, Puller
    from agentbus.receive.subscriber import Subscriber


class ServingCalls(Calls):
    """What comes in."""

    _pulls: dict[str, Puller]
    #: Those of `pulling` blocks; a loop left with `break` may still be handing back when the bus closes.
    _pullers: set[Puller]

    async def serve(self, *agents: Agent, handle_signals: bool = True) -> None:
        """Serve agents until SIGTERM, Ctrl-C or cancellation; all three drain.

        A second signal no longer waits for running handlers.
        """
        from agentbus.facade.subscribers import run_all

        subscribers = [self._subscriber(agent) for agent in agents]
        if not subscribers:
            raise ConfigurationError("serve() needs at least one agent")
        with _signals(subscribers) if handle_signals else contextlib.nullcontext():
            await run_all(subscribers)

    @asynccontextmanager
    async def serving(self, *agents: Agent) -> AsyncIterator[None]:
        """Serve agents for the length of a block: inside FastAPI, notebooks and tests."""
        from agentbus.facade.subscribers import run_all
        from agentbus.receive.subscriber import until_ready

        subscribers = [self._subscriber(agent) for agent in agents]
        running = asyncio.create_task(run_all(subscribers), name="agentbus serving")
        await until_ready(running, subscribers)
        try:
            yield
        finally:
            for subscriber in subscribers:
                subscriber.stop()
            await running

    def _subscriber(self, agent: Agent) -> Subscriber:
        from agentbus.facade.subscribers import new_subscriber

        return new_subscriber(self.rooms, self.settings, self.events, agent)

    def _puller(self, name: str, agent: Agent | None = None) -> Puller:
        from agentbus.facade.subscribers import new_subscriber
        from agentbus.receive.agent import Agent
        from agentbus.receive.pulling import Puller

        pulled = agent or Agent(name, concurrency=1)
        # A name alone says nothing of what the agent is; a serving process may have said it.
        assumed = agent is None
        subscriber = new_subscriber(self.rooms, self.settings, self.events, pulled, assumed=assumed)
        return Puller(subscriber, self.events)

    @asynccontextmanager
    async def pulling(self, name: str, *, agent: Agent | None = None) -> AsyncIterator[Puller]:
        """Pull deliveries from an inbox for the length of a block."""
        puller = self._puller(name, agent)
        self._pullers.add(puller)
        try:
            await puller.open()
            yield puller
        finally:
            await puller.close()
            self._pullers.discard(puller)

    async def inbox(self, name: str) -> AsyncIterator[PulledDelivery]:
        """Iterate over an agent's inbox: ``async for delivery in bus.inbox("reviewer")``.

        Settle each with ``async with delivery:``; leaving the loop hands back what is unsettled.
        """
        async with self.pulling(name) as puller, contextlib.aclosing(puller.deliveries()) as deliveries:
            async for delivery in deliveries:
                yield delivery

    async def next(self, name: str, *, timeout: Duration | None = None) -> PulledDelivery | None:
        """Return the next delivery of an agent's inbox; None when none came within ``timeout``.

        The bus keeps serving the inbox until it is closed.
        """
        puller = self._pulls.get(name)
        if puller is None:
            puller = self._puller(check_name(name))
            await puller.open()
            self._pulls[name] = puller
        return await puller.next(timeout)


@contextlib.contextmanager
def _signals(subscribers: list[Subscriber]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop the subscribers; put back what was there before."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        for subscriber in subscribers:
            subscriber.stop()
        for number in signals:
            loop.remove_signal_handler(number)

    added = []
    for number in signals:
        # Windows loops and threads other than the main one cannot; there the caller cancels.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
