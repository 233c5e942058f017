"""A conversation as one of its two agents sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentbus.broker.conversations import ConversationState
from agentbus.errors import MalformedMessage
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.topics import parties_of

_LONGEST_SNIPPET = 120


@dataclass(frozen=True, slots=True)
class LastMessage:
    """The newest message of a conversation."""

    message_id: str
    from_agent: str | None
    #: When it was said, in UTC by the server's clock.
    at: datetime
    #: The beginning of its content.
    snippet: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation, as it was at one moment."""

    #: ``dm:<a>:<b>``.
    name: str
    #: Whom it is with.
    other: str
    #: Messages of the other one that were not read; counted up to 1,000.
    unread: int
    #: None when retention has removed everything.
    last: LastMessage | None

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        last = None
        if self.last is not None:
            at = self.last.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            last = {
                "message_id": self.last.message_id,
                "from_agent": self.last.from_agent,
                "at": at,
                "snippet": self.last.snippet,
            }
        return {"name": self.name, "other": self.other, "unread": self.unread, "last": last}


def conversation_for(agent: str, state: ConversationState) -> Conversation:
    """Return a conversation as an agent sees it."""
    one, other = parties_of(state.name)
    return Conversation(state.name, other if one == agent else one, state.unread, _last_of(state))


def _last_of(state: ConversationState) -> LastMessage | None:
    if state.last_entry is None:
        return None
    at = datetime.fromtimestamp(int(state.last_entry.partition("-")[0]) / 1000, UTC)
    try:
        message = decode(state.last_message)
    except MalformedMessage as error:
        return LastMessage("", None, at, f"(no message: {error})")
    return LastMessage(message.message_id, message.from_agent, at, _snippet(message))


def _snippet(message: Message) -> str:
    content = message.content
    if isinstance(content, bytes):
        return f"({len(content):,} bytes)"
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_SNIPPET else text[: _LONGEST_SNIPPET - 1] + "…"
