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
from typing import Any, Unpack

from agentbus.bindings.companion import BindingCompanion
from agentbus.broker.conversations import ConversationStore
from agentbus.broker.receipts import ReceiptStore
from agentbus.broker.registry import Description
from agentbus.errors import ConfigurationError
from agentbus.facade.calls import Calls
from agentbus.fleet.registration import Registration
from agentbus.message.durations import Duration
from agentbus.message.message import Message
from agentbus.message.reply_address import PartMark
from agentbus.message.topics import check_name
from agentbus.receive.agent import Agent
from agentbus.receive.life import first_error
from agentbus.receive.outcome import ACKNOWLEDGED, Outcome
from agentbus.receive.pulling import PulledDelivery, Puller
from agentbus.receive.subscriber import Subscriber, until_ready
from agentbus.recipients.marks import Marks
from agentbus.send.envelope import AnyTopic, PublishOptions, Sender
from agentbus.send.requests import Answering
from agentbus.send.stored import Stored


class ServingCalls(Calls):
    """What comes in."""

    _pulls: dict[str, Puller]
    #: Those of `pulling` blocks; a loop left with `break` may still be handing back when the bus closes.
    _pullers: set[Puller]

    async def serve(self, *agents: Agent, handle_signals: bool = True) -> None:
        """Serve agents until SIGTERM, Ctrl-C or cancellation; all three drain.

        A second signal no longer waits for running handlers.
        """
        subscribers = [self._subscriber(agent) for agent in agents]
        if not subscribers:
            raise ConfigurationError("serve() needs at least one agent")
        with _signals(subscribers) if handle_signals else contextlib.nullcontext():
            await _run_all(subscribers)

    @asynccontextmanager
    async def serving(self, *agents: Agent) -> AsyncIterator[None]:
        """Serve agents for the length of a block: inside FastAPI, notebooks and tests."""
        subscribers = [self._subscriber(agent) for agent in agents]
        running = asyncio.create_task(_run_all(subscribers), name="agentbus serving")
        await until_ready(running, subscribers)
        try:
            yield
        finally:
            for subscriber in subscribers:
                subscriber.stop()
            await running

    def _subscriber(self, agent: Agent, *, assumed: bool = False) -> Subscriber:
        rooms = self.rooms
        sender = Sender(agent.name, agent.type)
        answers = Answering(
            rooms.broker, self.settings.prefix, self.events, sender, self.settings.publisher.message_bytes
        )

        async def publish(topic: AnyTopic, body: Any, **options: Unpack[PublishOptions]) -> Stored:
            return await rooms.publisher.publish_as(sender, topic, body, options)

        async def answer(
            request: Message, content: Any, failure: Outcome | None, mark: PartMark | None = None
        ) -> None:
            if failure is ACKNOWLEDGED:
                await answers.acknowledge(request, mark)
                return
            problem = None if failure is None else {"reason": failure.reason, "detail": failure.detail}
            await answers.send(request, content, problem, mark)

        about = Description(agent.name, agent.type, agent.capabilities, assumed)
        broker, prefix = rooms.broker, self.settings.prefix
        marks = Marks(ReceiptStore(broker, prefix), ConversationStore(broker, prefix), self.events)
        registration = Registration(rooms.registry, about, agent.settings.heartbeat, self.events)
        companions = (registration, marks, self._bindings_of(agent))
        return Subscriber(agent, rooms.grounds, publish, answer, answers.send_part, companions, marks.of)

    def _bindings_of(self, agent: Agent) -> BindingCompanion:
        rooms = self.rooms
        return BindingCompanion(
            agent.name,
            agent.addresses,
            agent.settings.copies_to,
            agent.bindings,
            rooms.bindings,
            rooms.table,
            rooms.debts,
        )

    @asynccontextmanager
    async def pulling(self, name: str, *, agent: Agent | None = None) -> AsyncIterator[Puller]:
        """Pull deliveries from an inbox for the length of a block."""
        pulled = agent or Agent(name, concurrency=1)
        # A name alone says nothing of what the agent is; a serving process may have said it.
        puller = Puller(self._subscriber(pulled, assumed=agent is None), self.events)
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
            pulled = Agent(check_name(name), concurrency=1)
            puller = Puller(self._subscriber(pulled, assumed=True), self.events)
            await puller.open()
            self._pulls[name] = puller
        return await puller.next(timeout)


async def _run_all(subscribers: list[Subscriber]) -> None:
    """Run subscribers until all have ended; when one fails the others drain and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for subscriber in subscribers:
                group.create_task(subscriber.run(), name=f"agentbus agent {subscriber.agent.name}")
    except BaseExceptionGroup as failures:
        raise first_error(failures) from failures


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
