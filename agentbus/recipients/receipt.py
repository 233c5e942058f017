"""What became of a message at one recipient, as its sender sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentbus.broker.receipts import Row
from agentbus.errors import InvalidValue

#: What can be waited for, in the order in which it happens.
LEVELS = ("stored", "delivered", "read", "processed")


@dataclass(frozen=True, slots=True)
class Receipt:
    """One recipient of one message. Times are in UTC, by the server's clock; None until it happened."""

    agent: str
    #: It is in the agent's inbox.
    stored_at: datetime | None
    #: A process of the agent had it in its hands.
    delivered_at: datetime | None
    #: A handler began, or somebody marked it read.
    read_at: datetime | None
    #: It was settled as processed.
    processed_at: datetime | None
    #: Why it was not stored, or ended without being processed: ``expired``, ``dead: rejected: …``, ….
    refused: str | None
    #: Whether the agent said that it was read and needs no reply.
    acknowledged: bool = False

    def reached(self, level: str) -> bool:
        """Whether it is ``stored``, ``delivered``, ``read`` or ``processed``."""
        return getattr(self, f"{level}_at") is not None

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object: agent, the four times, refused and acknowledged."""
        record: dict[str, Any] = {"agent": self.agent}
        for level in LEVELS:
            at: datetime | None = getattr(self, f"{level}_at")
            shown = None if at is None else at.isoformat(timespec="milliseconds")
            record[f"{level}_at"] = None if shown is None else shown.replace("+00:00", "Z")
        return {**record, "refused": self.refused, "acknowledged": self.acknowledged}


def receipt_of(row: Row) -> Receipt:
    """Return a row for people: what a later step proves is not left open because its own mark was lost.

    Nor is it shown as later than that step: a mark bears the time at which it was written, and the end of a
    message, where its mark was lost, that of the broker's own record.
    """
    read = _no_later(row.read, row.processed)
    delivered = _no_later(row.delivered, read)
    stored = _no_later(row.stored, delivered)
    refused = None
    if row.processed is None:
        refused = row.ended or (row.unstored if stored is None else None)
    return Receipt(
        row.agent,
        _instant(stored),
        _instant(delivered),
        _instant(read),
        _instant(row.processed),
        refused,
        row.acknowledged,
    )


def check_level(level: str) -> str:
    """Return a level that can be waited for; raises `InvalidValue` for another one."""
    if level not in LEVELS:
        raise InvalidValue("level", f"{level!r} is none of {', '.join(LEVELS)}")
    return level


def _no_later(own: int | None, proof: int | None) -> int | None:
    if own is None or proof is None:
        return proof if own is None else own
    return min(own, proof)


def _instant(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
