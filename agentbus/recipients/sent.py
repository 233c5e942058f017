"""What became of a message to named agents when it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentbus.message.durations import Duration
from agentbus.recipients.receipt import Receipt
from agentbus.recipients.receipts import Receipts
from agentbus.send.stored import Stored


@dataclass(frozen=True, slots=True)
class SentTo:
    """One recipient when the message was sent: stored, or refused with the error."""

    agent: str
    stored: Stored | None
    error: Exception | None = None

    @property
    def stored_at(self) -> datetime | None:
        """When it was stored, by the server's clock; None for a delayed or a refused one."""
        entry_id = None if self.stored is None else self.stored.entry_id
        return (
            None if entry_id is None else datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """One message to several agents, under one id."""

    message_id: str
    #: In the order in which they were named.
    recipients: tuple[SentTo, ...]
    #: Its place in the log of the channel it was said in; None without one.
    logged: Stored | None
    _receipts: Receipts = field(repr=False, compare=False)

    @property
    def refused(self) -> Mapping[str, Exception]:
        """Who did not get it, and why; the others did."""
        return {each.agent: each.error for each in self.recipients if each.error is not None}

    async def status(self) -> list[Receipt]:
        """Return how it is with each recipient now: stored, delivered, read, processed, refused."""
        return await self._receipts.status(self.message_id)

    async def wait_all(self, level: str, timeout: Duration = 30.0) -> list[Receipt]:
        """Wait until every recipient has it ``stored``, ``delivered``, ``read`` or ``processed``.

        One that refused it, or ended it in another way, is not waited for: its receipt says so. Raises
        `ReceiptTimeout` that names who is missing.
        """
        return await self._receipts.wait_all(self.message_id, level, timeout)
