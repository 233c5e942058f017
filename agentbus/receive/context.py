"""What a handler can ask for besides the body."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from agentbus.broker.subscription import Gap
from agentbus.message.current import handling
from agentbus.message.message import Message
from agentbus.receive.delivery import Delivery

#: Sends a message in the name of the agent: the same call as `Bus.publish`.
Publish = Callable[..., Awaitable[Any]]

#: Sends a part of the answer; False when nobody wants parts.
SendPart = Callable[[Any], Awaitable[bool]]

_logger = logging.getLogger("agentbus.handler")


class Context:
    """One handler call: its message, its deadline, and the means to act on the bus."""

    def __init__(
        self,
        delivery: Delivery,
        state: dict[str, Any],
        publish: Publish,
        reply: Callable[[Message, Any], Awaitable[None]],
        deadline: datetime | None,
        send_part: SendPart,
    ) -> None:
        self.delivery = delivery
        #: The agent's ``state``: what the application shares between handlers.
        self.state = state
        #: When the handler's timeout passes; None without one.
        self.deadline = deadline
        self._publish = publish
        self._reply = reply
        self._send_part = send_part
        self._timed_out = False

    @property
    def message(self) -> Message:
        """The message."""
        return self.delivery.message

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self.delivery.attempt

    @property
    def gap(self) -> Gap | None:
        """On a channel: what retention removed before this message, unread; None when nothing is missing."""
        return self.delivery.gap

    @property
    def cancelled(self) -> bool:
        """Whether the result no longer counts: the lease was lost or the time is up.

        A handler in a thread cannot be interrupted; a long one looks here now and then.
        """
        return self.delivery.revoked or self._timed_out

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the ids of message and conversation."""
        return logging.LoggerAdapter(
            _logger,
            {
                "address": self.delivery.address,
                "message_id": self.message.message_id,
                "correlation_id": self.message.correlation_id,
                "attempt": self.attempt,
            },
        )

    def give_up(self) -> None:
        """Note that the time is up, for a handler that runs in a thread."""
        self._timed_out = True

    async def publish(self, topic: Any, body: Any, **options: Any) -> Any:
        """Send a message in the agent's name, caused by this one: same conversation, unless options say so.

        `Bus.publish` inside a handler continues the conversation as well; this does it from anywhere.
        """
        with handling(self.message):
            return await self._publish(topic, body, **options)

    async def reply(self, body: Any) -> None:
        """Answer whoever asked, now; what the handler returns is then not sent again."""
        await self._reply(self.message, body)

    async def acknowledge(self) -> None:
        """End the message as read, with no reply needed; what the handler does later changes nothing."""
        await self.delivery.acknowledge()

    async def send_part(self, part: Any) -> bool:
        """Send a part of the answer, now, to an asker that reads it in parts (`Bus.stream`).

        Waits until the broker has it, so that parts arrive in order and none is lost. False when nobody wants
        it: nobody asked, it was asked by `Bus.request`, or the process that asked is gone. Raises
        `InvalidValue` for what cannot be sent.
        """
        return await self._send_part(part)
