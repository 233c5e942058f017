"""Talking: direct messages, live events, and copies by wildcard."""

from __future__ import annotations

from typing import Any, Unpack

from agentbus.bindings.bindings import Binding, list_bindings
from agentbus.broker.conversations import ConversationStore
from agentbus.broker.receipts import ReceiptStore
from agentbus.conversations.access import check_identity, own_conversation
from agentbus.conversations.conversation import Conversation
from agentbus.conversations.conversations import DIRECT, Conversations
from agentbus.facade.calls import Calls
from agentbus.history.entry import HistoryPage
from agentbus.history.query import HistoryFilters
from agentbus.live.live import EmitOptions
from agentbus.live.watch import Watch
from agentbus.message.patterns import parse_pattern
from agentbus.message.topics import check_name
from agentbus.recipients.sent import Sent
from agentbus.send.envelope import AnyTopic, PublishOptions


class TalkingCalls(Calls):
    """What passes between agents beside work."""

    async def dm(
        self,
        to: str,
        body: Any,
        *,
        type: str = DIRECT,
        allow_unknown: bool = False,
        **options: Unpack[PublishOptions],
    ) -> Sent:
        """Say something to one agent: it stands in the conversation of the two, and in the agent's inbox.

        Returns when both are stored. Raises `UnknownRecipients` when nobody was ever served under that name,
        unless ``allow_unknown``, `InvalidValue` for a message to oneself, `ConfigurationError` for a bus
        without an agent name, and what `Publisher.publish` raises.
        """
        return await self._conversations().send(to, body, type, allow_unknown, options)

    async def conversations(self) -> list[Conversation]:
        """Return the conversations of this bus's agent: with whom, unread, last message; newest first."""
        return await self._conversations().list()

    async def conversation(
        self,
        other_or_name: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[HistoryFilters],
    ) -> HistoryPage:
        """Return one page of a conversation of this bus's agent, newest first; see `history`.

        It is given by the name of the other agent, or its own, ``dm:<a>:<b>``. Raises `NotYourConversation`.
        """
        name = own_conversation(check_identity(self._sender.agent), other_or_name)
        return await self.rooms.history.page(name, filters, limit, cursor)

    async def mark_read(self, conversation_or_message_id: str) -> None:
        """Mark a conversation (``dm:<a>:<b>``), or one message by its id, as read by this bus's agent.

        A handler that begins, and a pulled message that is settled, do so by themselves. Raises
        `NotYourConversation`, or `NoSuchReceipts` for a message that it was not sent.
        """
        await self._conversations().mark_read(conversation_or_message_id)

    def _conversations(self) -> Conversations:
        broker, prefix = self.rooms.broker, self.settings.prefix
        return Conversations(
            check_identity(self._sender.agent),
            self._sender,
            self._sending(),
            ConversationStore(broker, prefix),
            ReceiptStore(broker, prefix),
        )

    async def emit(self, topic: AnyTopic, body: Any, **options: Unpack[EmitOptions]) -> int:
        """Send a live event to whoever watches at this moment; it is stored nowhere, and never repeated.

        Returns how many subscriptions the server passed it to: those whose pattern matches, and some that
        only nearly match. Raises `InvalidValue` for a bad field, and `BrokerError`.
        """
        trace = self.rooms.publisher.current_trace()
        if trace:
            options = {"trace": trace, **options}
        return await self.rooms.live.emit(topic, body, options)

    def watch(
        self, pattern: str, *, stored: bool = False, everything: bool = False, buffer: int = 1000
    ) -> Watch:
        """Watch live events: ``async for event in bus.watch("agent.*.status")``; see `Watch`.

        ``stored`` shows messages that inboxes and channels store as well; entering it then takes a second,
        after which every publisher knows. At most ``buffer`` events wait for a slow reader. Raises
        `InvalidTopic` for what is no pattern; one that matches everything needs ``everything``.
        """
        return self.rooms.live.watch(pattern, self.rooms.table.hold if stored else None, everything, buffer)

    async def bindings(self) -> list[Binding]:
        """Return every durable wildcard, see `Agent.bind`, with its counters."""
        return await list_bindings(self.rooms.bindings)

    async def unbind(self, agent: str, pattern: str) -> bool:
        """Remove a binding of an agent, served or not; False when there was none.

        Returns when nothing is copied for it any more, after about a second. An agent that declares it puts
        it back when it is served again.
        """
        text = parse_pattern(pattern, everything=True).text
        found = await self.rooms.bindings.unbind(check_name(agent, "agent"), text)
        if found:
            await self.rooms.table.hold()
        return found
