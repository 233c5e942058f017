"""What the history reads from: Redis always, an archive when there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.ends import Ends, Tally
from agentbus.broker.inspection.kept import LAST_OF_RECORD, Point, Stretch, Window
from agentbus.broker.inspection.log import Log
from agentbus.broker.inspection.look import parse_id
from agentbus.broker.inspection.unended import Unended
from agentbus.broker.keys import channel_keys, inbox_keys
from agentbus.history.query import HistoryQuery
from agentbus.message.topics import is_inbox


class RedisEnds(Protocol):
    """What ended at an address, or was logged there, as far as Redis still has it."""

    async def tally(self) -> Tally:
        """Return what the books say."""

    async def read(self, window: Window, most: int) -> Stretch:
        """Return the next messages of a window."""

    async def count(self, window: Window, most_records: int) -> int | None:
        """Count messages; None when that takes too long."""


class ArchivedEnds(Protocol):
    """What an archive has of an address; each call raises `ArchiveError` when it cannot tell."""

    async def edge(self, address: str, *, newest: bool) -> Point | None:
        """Return the point of the newest or the oldest message it has; None when it has none."""

    async def count(self, address: str, window: Window) -> int:
        """Count its messages in a window."""

    async def read(self, query: HistoryQuery, window: Window, most: int) -> Stretch:
        """Return the next messages of a window that match a query."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Everything about one address that Redis can be asked."""

    broker: Broker
    address: str
    ends: RedisEnds
    #: None for a channel.
    inbox_ends: Ends | None
    unended: Unended | None
    archived_key: str
    archived_field: str

    async def archived_up_to(self) -> Point | None:
        """Return up to where the archive says that it has everything; None: nowhere."""
        found = await self.broker.execute("HGET", self.archived_key, self.archived_field)
        try:
            return None if found is None else (*parse_id(found), LAST_OF_RECORD)
        except ValueError:
            # Somebody's hand: the archive itself is asked then.
            return None


def open_shelf(broker: Broker, prefix: str, address: str) -> Shelf:
    """Return the readers of one address."""
    if is_inbox(address):
        inbox = inbox_keys(prefix, address)
        ends = Ends(broker, inbox)
        return Shelf(broker, address, ends, ends, Unended(broker, inbox), inbox.archived, "outcomes")
    channel = channel_keys(prefix, address)
    return Shelf(broker, address, Log(broker, channel), None, None, channel.archived, "log")
