"""What a query of the history returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from agentbus.broker.inspection.kept import Kept
from agentbus.errors import MalformedMessage
from agentbus.message.codec import decode
from agentbus.message.message import Message

#: Ends that come by a run.
_RAN = ("processed", "discarded")


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One message of an address: where it is, or how it ended."""

    address: str
    #: Its id in its stream; of a due one its name there.
    entry_id: str
    #: None when its content was removed, or is no message.
    message: Message | None
    #: The lane's priority; ``log`` in a channel.
    lane: str
    #: ``waiting``, ``in_flight``, ``due``, ``dead``, ``ended``, or ``logged`` (in a channel).
    state: str
    #: Unix time in ms by the server's clock: when it ended, died or was logged; since when it waits or is
    #: held; when it is due.
    at_ms: int
    #: When the sender made it, by the sender's clock.
    sent_at: datetime | None
    #: For an ended one processed, expired, cancelled, discarded, resolved or moved; else empty.
    outcome: str
    #: Who holds it or ended it; empty when nobody did.
    consumer: str
    #: Attempts begun so far.
    attempts: int
    #: ``redis`` or ``archive``.
    where: str
    #: Why it is dead, how it was resolved, or what is wrong with its content.
    detail: str = ""

    @property
    def ended_at_ms(self) -> int | None:
        """When it ended, in ms; None while it has not."""
        return self.at_ms if self.state == "ended" else None

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON."""
        message = None if self.message is None else dict(self.message.envelope)
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("message", "sent_at")}
        sent = self.sent_at.isoformat() if self.sent_at is not None else None
        return {**fields, "sent_at": sent, "message": message}


@dataclass(frozen=True, slots=True)
class HistoryGap:
    """Why a page does not hold all that was asked for."""

    #: ``trimmed``: messages are gone. ``content``: their content is. ``archive``: it cannot be read.
    #: ``moving``: messages ended while the pages were read. ``scan``: the page ended early, go on with its
    #: cursor. ``private``: direct messages between others were left out. ``unknown``: it cannot be told.
    kind: str
    #: For people.
    reason: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A few messages, and how to go on."""

    entries: tuple[HistoryEntry, ...]
    #: Opaque; give it to the same query for the next page. None: this was the last one.
    next: str | None
    gaps: tuple[HistoryGap, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether nothing of what this page covers is missing. An empty complete page is really empty."""
        return not self.gaps

    def to_record(self) -> dict[str, Any]:
        """Return all but the entries as JSON."""
        return {"next": self.next, "complete": self.complete, "gaps": [asdict(gap) for gap in self.gaps]}


def entry_of(address: str, kept: Kept, where: str) -> HistoryEntry:
    """Return what a store keeps as an entry of the history."""
    message, problem = None, ""
    if kept.text is None:
        problem = "its content was removed"
    else:
        try:
            message = decode(kept.text)
        except MalformedMessage as error:
            problem = f"is no message: {error}"
    return HistoryEntry(
        address=address,
        entry_id=kept.entry_id,
        message=message,
        lane=_lane_of(kept, message),
        state=kept.status,
        at_ms=kept.at_ms,
        sent_at=None if message is None else message.timestamp,
        outcome=kept.outcome,
        consumer=kept.consumer,
        attempts=_attempts(kept),
        where=where,
        detail=kept.detail or problem,
    )


def _lane_of(kept: Kept, message: Message | None) -> str:
    if kept.stream == "log":
        return "log"
    lane = kept.state.get("lane")
    if isinstance(lane, str) and lane:
        return lane
    if kept.stream in ("returned", "due", "dead", "resolved", "ended") and message is not None:
        return message.priority
    return kept.stream


def _attempts(kept: Kept) -> int:
    if kept.attempts is not None:
        return kept.attempts
    spent = kept.state.get("attempt")
    # What somebody wrote by hand reads as none, as in the scripts.
    spent = spent if type(spent) is int and spent >= 0 else 0
    running = kept.status in ("in_flight", "dead") or kept.outcome in _RAN
    return spent + 1 if running else spent
