"""What is found of messages to named agents, direct ones and copies, once all is at rest. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentbus import Receipt
from agentbus.message.topics import conversation_of
from tests.chaos.checker import writer_and_number

INBOX = "agent."


@dataclass(frozen=True, slots=True)
class Writer:
    """How one writer sends, and who gets it; see `sender` for the ways."""

    way: str
    #: Agents, or topics.
    to: tuple[str, ...]
    channel: str | None = None
    idempotent: bool = False
    #: Seconds; a short one makes uncertain answers.
    deadline: float = 30.0
    #: Who is bound to which topics: topic to agent.
    bound: Mapping[str, str] = field(default_factory=dict)

    def named(self, key: str) -> tuple[str, ...]:
        """Return the agents that a message names: each has a receipt."""
        if self.way == "topics":
            return ()
        return self.to if self.way == "several" else (self._turn(key),)

    def addressed(self, key: str) -> tuple[str, ...]:
        """Return the agents that get the message itself in their inboxes."""
        if self.way == "topics":
            agent = self._inbox_of(self._turn(key))
            return (agent,) if agent else ()
        return self.named(key)

    def copied(self, key: str) -> dict[str, str]:
        """Return the agents that get a copy: agent to where the message itself is, an agent or a channel."""
        if self.way == "direct":
            return {}
        topics = (self._turn(key),) if self.way == "topics" else [f"{INBOX}{to}.task" for to in self.to]
        found = {self.bound[topic]: topic for topic in topics if topic in self.bound}
        return {agent: self._inbox_of(topic) or topic.rpartition(".")[0] for agent, topic in found.items()}

    def log(self, writer: str, key: str) -> str | None:
        """Return the address of the log in which a message stands; None for one that stands in none."""
        if self.way == "direct":
            return conversation_of(writer, self._turn(key))
        if self.way == "topics":
            topic = self._turn(key)
            return None if self._inbox_of(topic) else topic.rpartition(".")[0]
        return self.channel

    def _turn(self, key: str) -> str:
        _, number = writer_and_number(key)
        return self.to[number % len(self.to)]

    @staticmethod
    def _inbox_of(topic: str) -> str:
        return topic.removeprefix(INBOX).partition(".")[0] if topic.startswith(INBOX) else ""


@dataclass(frozen=True, slots=True)
class Mail:
    """Everything that is known at the end."""

    #: Message id to its rows.
    receipts: Mapping[str, tuple[Receipt, ...]]
    #: Agent to the keys of its dead letters.
    dead: Mapping[str, frozenset[str]]
    #: Address of a log to the keys in it, in its order.
    logs: Mapping[str, tuple[str, ...]]
    #: Conversation and agent to what it has not read.
    unread: Mapping[tuple[str, str], int]
    #: Seconds to be added to a history's time for the server's.
    wall: float
