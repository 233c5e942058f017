"""What a handler can ask for besides the body."""

from __future__ import annotations

from typing import Any, cast

from agentbus import Context, Message
from agentbus.broker.answers import RawEntry
from agentbus.broker.inbox import Inbox
from agentbus.message.current import current_message
from agentbus.receive.delivery import Delivery, Source


class Place:
    """Where a delivery came from."""

    address = "agent.worker"


def context(sent: list[dict[str, Any]], **fields: Any) -> Context:
    source = Source(cast(Inbox, Place()), 3)
    delivery = Delivery(source, RawEntry(3, b"1-0", b"{}", b'{"attempt":2}'), 0.0, cast(Any, None))
    delivery.message = Message({"message_id": "m-1", "message_type": "task", **fields})

    async def publish(topic: Any, body: Any, **options: Any) -> None:
        sent.append({"caused by": current_message(), **options})

    async def reply(message: Message, body: Any) -> None: ...

    async def send_part(part: Any) -> bool:
        return False

    return Context(delivery, {"shared": 1}, publish, reply, None, send_part)


async def test_what_it_publishes_is_caused_by_its_message_wherever_it_is_called() -> None:
    sent: list[dict[str, Any]] = []
    asked = context(sent, correlation_id="c-1")
    await asked.publish("agent.a.task", None, priority="high")
    assert sent == [{"caused by": asked.message, "priority": "high"}]
    assert current_message() is None


async def test_it_is_cancelled_when_the_time_is_up_or_the_lease_is_lost() -> None:
    asked = context([])
    assert not asked.cancelled
    asked.give_up()
    assert asked.cancelled
    revoked = context([])
    revoked.delivery.revoked = True
    assert revoked.cancelled


async def test_it_shows_attempt_and_state_and_logs_with_ids() -> None:
    asked = context([], correlation_id="c-1")
    assert asked.attempt == 3
    assert asked.state == {"shared": 1}
    assert asked.log.extra == {
        "address": "agent.worker",
        "message_id": "m-1",
        "correlation_id": "c-1",
        "attempt": 3,
    }
