"""What an incarnation needs of where it works: an inbox, or an agent's place in the log of a channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from agentbus.broker.answers import Burial, Joined, RawEntry, Reclaimed
from agentbus.broker.connection import Link
from agentbus.broker.scripts import Call


class Place(Protocol):
    """The verbs; `Inbox` and `Subscription` say what each does."""

    address: str

    async def join(self, consumer: str, lease_ms: int | None = None) -> Joined:
        """Make a consumer known."""

    def beat(self, consumer: str, lag_ms: int, phase: str) -> Call:
        """Return the call that raises a consumer's beat."""

    async def leave(self, consumer: str) -> int:
        """Take a consumer out; returns how many entries it still held."""

    async def fetch(
        self, consumer: str, most: int, most_bytes: int, link: Link | None = None
    ) -> list[RawEntry]:
        """Take messages in serving order; raises `StaleDelivery` when fenced."""

    async def weed(self, consumer: str, entries: Sequence[RawEntry]) -> list[RawEntry]:
        """End what was cancelled among entries that a consumer was handed; returns the others."""

    async def settle(self, consumer: str, outcome: str, entries: Mapping[int, Iterable[bytes]]) -> int:
        """End deliveries; returns how many were still open."""

    async def postpone(
        self, consumer: str, entry: RawEntry, delay_ms: int, kind: str, failure: str, message_id: str
    ) -> int | None:
        """Have a delivery handed out again later; returns when (server ms) if somebody must be told."""

    async def bury(
        self, consumer: str, entry: RawEntry, reason: str, detail: str, failure: str, max_retries: int | None
    ) -> Burial | None:
        """Make a delivery a dead letter."""

    async def release(self, consumer: str, entries: Mapping[int, Iterable[bytes]]) -> int:
        """Hand deliveries back at once, nothing spent."""

    async def mark_started(self, consumer: str, entry: RawEntry) -> None:
        """Mark the one suspect that this consumer is about to start."""

    async def beats(self) -> dict[str, str]:
        """Return consumer to beat."""

    async def strangers(self) -> list[str]:
        """Return every consumer that is not alive and has to be taken from."""

    async def reclaim(self, consumer: str, seen_beat: str) -> Reclaimed | None:
        """Take what a dead consumer held, one step; None when it lives."""

    async def held_ids(self, consumer: str, most: int = 1000) -> list[tuple[int, bytes]]:
        """Return (source, entry id) of what is pending for a consumer."""

    async def read_entry(self, source: int, entry_id: bytes) -> RawEntry | None:
        """Return one entry without touching its delivery."""

    async def restore(self, consumer: str, source: int, entry_id: bytes) -> bool:
        """Put an entry that somebody took off a consumer's list back on it."""

    async def forget(self, source: int, entry_id: bytes) -> None:
        """Acknowledge an entry that somebody deleted while it was held."""

    async def make_groups(self) -> bool:
        """Create what was deleted; returns whether anything was missing."""
