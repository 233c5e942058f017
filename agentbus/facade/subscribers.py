"""How served agents are put together and run; loaded when the first one is served."""

from __future__ import annotations

import asyncio
from typing import Any, Unpack

from agentbus.bindings.companion import BindingCompanion
from agentbus.broker.conversations import ConversationStore
from agentbus.broker.receipts import ReceiptStore
from agentbus.broker.registry import Description
from agentbus.events import Events
from agentbus.facade.rooms import Rooms
from agentbus.fleet.registration import Registration
from agentbus.message.message import Message
from agentbus.message.reply_address import PartMark
from agentbus.receive.agent import Agent
from agentbus.receive.life import first_error
from agentbus.receive.outcome import ACKNOWLEDGED, Outcome
from agentbus.receive.subscriber import Subscriber
from agentbus.recipients.marks import Marks
from agentbus.send.envelope import AnyTopic, PublishOptions, Sender
from agentbus.send.requests import Answering
from agentbus.send.stored import Stored
from agentbus.settings import BusSettings


def new_subscriber(
    rooms: Rooms, settings: BusSettings, events: Events, agent: Agent, *, assumed: bool = False
) -> Subscriber:
    """Return what serves an agent; ``assumed``: nothing is known of it but its name."""
    sender = Sender(agent.name, agent.type)
    broker, prefix = rooms.broker, settings.prefix
    answers = Answering(broker, prefix, events, sender, settings.publisher.message_bytes)

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
    marks = Marks(ReceiptStore(broker, prefix), ConversationStore(broker, prefix), events)
    registration = Registration(rooms.registry, about, agent.settings.heartbeat, events)
    companions = (registration, marks, _bindings_of(agent, rooms))
    return Subscriber(agent, rooms.grounds, publish, answer, answers.send_part, companions, marks.of)


def _bindings_of(agent: Agent, rooms: Rooms) -> BindingCompanion:
    return BindingCompanion(
        agent.name,
        agent.addresses,
        agent.settings.copies_to,
        agent.bindings,
        rooms.bindings,
        rooms.table,
        rooms.debts,
    )


async def run_all(subscribers: list[Subscriber]) -> None:
    """Run subscribers until all have ended; when one fails the others drain and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for subscriber in subscribers:
                group.create_task(subscriber.run(), name=f"agentbus agent {subscriber.agent.name}")
    except BaseExceptionGroup as failures:
        raise first_error(failures) from failures
