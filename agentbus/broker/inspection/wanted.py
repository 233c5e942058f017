"""Which messages a search is for."""

from __future__ import annotations

from agentbus.broker.connection import Broker
from agentbus.broker.keys import InboxKeys
from agentbus.message.message import Message

#: Due messages looked at in one call.
_DUE_STEP = 50


class Wanted:
    """Which messages a search is for: the one with this id."""

    def __init__(self, wanted_id: str) -> None:
        self.id = wanted_id
        self._bytes = wanted_id.encode()

    def may_be(self, text: bytes) -> bool:
        """Whether it is worth decoding a text."""
        return self._bytes in text

    def takes(self, message: Message) -> bool:
        """Whether a message is one of them."""
        # The id may also be another message's cause or conversation: only the decoded one counts.
        return message.message_id == self.id

    async def due_ids(self, broker: Broker, keys: InboxKeys) -> list[str]:
        """Return under which names in ``delayed`` they are."""
        found: list[str] = []
        due_id = self.id
        while await broker.execute("HEXISTS", keys.delayed, due_id):
            found.append(due_id)
            # A second message with the same id was given a longer name by the server.
            due_id += "+"
        return found


class Conversation(Wanted):
    """The messages with this correlation id, and the one that began it; at most so many."""

    def __init__(self, correlation_id: str, most: int) -> None:
        super().__init__(correlation_id)
        self._most = most
        self._taken: set[str] = set()
        #: Whether there were more.
        self.more = False

    def takes(self, message: Message) -> bool:
        """Whether a message belongs to it."""
        if self.id not in (message.correlation_id, message.message_id):
            return False
        if message.message_id not in self._taken and len(self._taken) >= self._most:
            self.more = True
            return False
        self._taken.add(message.message_id)
        return True

    async def due_ids(self, broker: Broker, keys: InboxKeys) -> list[str]:
        """Return under which names in ``delayed`` they are; walks through all that is due."""
        found: list[str] = []
        cursor = b"0"
        while True:
            cursor, flat = await broker.execute("HSCAN", keys.delayed, cursor, "COUNT", _DUE_STEP)
            for name, text in zip(flat[::2], flat[1::2], strict=True):
                if not name.endswith(b":state") and self.may_be(text):
                    found.append(name.decode(errors="replace"))
            if cursor == b"0":
                return found
