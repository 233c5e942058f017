"""Sending: one message, many, or one to several agents."""

from __future__ import annotations

from collections.abc import (
    Coroutine,
    Iterable,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Unpack

from agentbus.facade.calls import Calls
from agentbus.send.envelope import AnyTopic, PublishOptions
from agentbus.send.stored import Stored

if TYPE_CHECKING:
    from agentbus.recipients.sent import Sent


class SendingCalls(Calls):
    """What goes out."""

    def publish(
        self, topic: AnyTopic, body: Any, **options: Unpack[PublishOptions]
    ) -> Coroutine[Any, Any, Stored]:
        """Send one message; see `Publisher.publish` for the options and errors."""
        return self.rooms.publisher.publish_as(self._sender, topic, body, options)

    async def publish_many(
        self, topic: AnyTopic, bodies: Iterable[Any], **options: Unpack[PublishOptions]
    ) -> list[Stored | Exception]:
        """Send many messages to one topic; see `Publisher.publish_many`."""
        return await self.rooms.publisher.publish_many(topic, bodies, **options)

    async def send(
        self,
        message_type: str,
        body: Any,
        *,
        to: Sequence[str],
        channel: str | None = None,
        allow_unknown: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Sent:
        """Send one message to several agents: one id, a copy in the inbox of each, receipts for all.

        With ``channel`` it is said in that channel: it also stands in its log. Returns when every copy is
        stored or refused; ``sent.refused`` names those that did not take it. Raises `UnknownRecipients`
        before anything is sent when a name was never registered, unless ``allow_unknown``; `InvalidValue`
        for an empty list, a name twice or more than 1,000 names; and what `Publisher.publish` raises when
        the channel does not take it.
        """
        return await self._sending().send(
            self._sender, message_type, body, to, channel, allow_unknown, options
        )
