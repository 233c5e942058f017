"""The door: say something to one agent, see with whom there are conversations, mark what was read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentbus.broker.conversations import ConversationStore
from agentbus.broker.receipts import ReceiptStore, field_of
from agentbus.conversations.access import own_conversation
from agentbus.conversations.conversation import Conversation, conversation_for
from agentbus.errors import MalformedMessage, NoSuchReceipts
from agentbus.message.codec import decode
from agentbus.message.topics import check_name, conversation_of, is_conversation
from agentbus.recipients.naming import check_type
from agentbus.recipients.sending import Letter, Sending, message_id_for, until_answered
from agentbus.recipients.sent import Sent
from agentbus.send.envelope import Addressing, PublishOptions, Sender

#: The type of a direct message that says no other.
DIRECT = "dm"
#: Messages that are marked as read in one step; their bodies come along.
_STEP = 50


class Conversations:
    """Direct messages in the name of one agent."""

    def __init__(
        self, agent: str, sender: Sender, sending: Sending, store: ConversationStore, receipts: ReceiptStore
    ) -> None:
        self._agent = agent
        self._sender = sender
        self._sending = sending
        self._store = store
        self._receipts = receipts

    async def send(
        self, to: str, body: Any, message_type: str, allow_unknown: bool, options: PublishOptions
    ) -> Sent:
        """Say something to one agent; see `Bus.dm`."""
        name = conversation_of(self._agent, check_name(to, "to"))
        addressed = Addressing(message_id_for(self._sender, options), (to,), "direct", name)
        with self._sending.spanned(
            Letter(self._sender, check_type(message_type), body, options, addressed)
        ) as letter:
            return await self._send(name, to, letter, allow_unknown)

    async def _send(self, name: str, to: str, letter: Letter, allow_unknown: bool) -> Sent:
        sending = self._sending
        until = sending.until(letter.options)
        sending.check(letter)
        if not allow_unknown:
            await sending.check_known((to,), until)
        await until_answered(lambda: self._store.note(name, (self._agent, to)), until)
        await sending.open(letter, until)
        logged = await sending.log(letter, until)
        # Confirmed by a repeated batch alone, its place in the log is not known.
        entry_id = logged.entry_id or await until_answered(
            lambda: self._store.find(name, letter.addressed.message_id),
            until,
            f"it stands in {name}, and came into no inbox",
        )
        copy = replace(letter, addressed=replace(letter.addressed, log_entry=entry_id))
        (sent,) = await sending.copies(copy, until)
        if sent.error is not None:
            raise sent.error
        return sending.result(letter, [sent], logged)

    async def list(self) -> list[Conversation]:
        """Return the conversations of this agent, the one with the newest message first."""
        states = await self._store.states(self._agent, await self._store.names(self._agent))
        found = [conversation_for(self._agent, state) for state in states]
        return sorted(found, key=_age)

    async def mark_read(self, conversation_or_message_id: str) -> None:
        """Mark a whole conversation, or one message that this agent was sent, as read."""
        if is_conversation(conversation_or_message_id):
            await self._read_all(own_conversation(self._agent, conversation_or_message_id))
        else:
            await self._read_one(conversation_or_message_id)

    async def _read_all(self, name: str) -> None:
        (state,) = await self._store.states(self._agent, [name])
        entry_id = state.read_up_to
        # As far as the conversation went when this began: what is said meanwhile was not seen.
        while state.last_entry is not None and entry_id != state.last_entry:
            rows = await self._store.after(name, entry_id, _STEP)
            if not rows:
                return
            entry_id = rows[-1][0]
            field = field_of(self._agent, "read")
            mine = [message_id for _, text in rows if (message_id := self._id_of_mine(text))]
            await self._receipts.mark({message_id: {field: None} for message_id in mine})
            await self._store.read(name, self._agent, entry_id)

    def _id_of_mine(self, text: bytes) -> str | None:
        """Return the id of a message if it was sent to this agent."""
        try:
            message = decode(text)
        except MalformedMessage:
            return None
        return message.message_id if self._agent in message.recipients else None

    async def _read_one(self, message_id: str) -> None:
        rows = await self._receipts.read(message_id)
        if rows is None or self._agent not in [row.agent for row in rows.rows]:
            raise NoSuchReceipts(
                f"{self._agent} was sent no message {message_id}, or more than seven days ago"
            )
        await self._receipts.mark({message_id: {field_of(self._agent, "read"): None}})
        if rows.channel is not None and is_conversation(rows.channel):
            entry_id = await self._store.find(rows.channel, message_id)
            if entry_id is not None:
                await self._store.read(rows.channel, self._agent, entry_id)


def _age(conversation: Conversation) -> float:
    """Sorts the one with the newest message first, and those without any last."""
    return 0.0 if conversation.last is None else -conversation.last.at.timestamp()
