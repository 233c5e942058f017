"""From a message that has ended to a row of the archive. Pure: whatever an entry holds becomes a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from agentbus.broker.archiving import Ended

#: Characters of an indexed column: an index takes 2,700 bytes. The envelope has the whole.
LONGEST_INDEXED = 500
#: PostgreSQL's integers, and the last moment that both it and Python can write.
_LARGEST_INTEGER = 2**31 - 1
_LAST_MS = 253_370_764_800_000
#: jsonb holds no NUL.
_NUL_ESCAPE = b"\\u0000"
_RAN = frozenset(("processed", "discarded"))
#: Half of a surrogate pair, which is no text of its own.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row, in the order of `COLUMNS`."""

    ended_at: datetime
    prefix: str
    address: str
    ended_ms: int
    ended_seq: int
    ended_index: int
    stream: str
    entry_ms: int
    entry_seq: int
    message_id: str | None
    topic: str | None
    type: str | None
    sender: str | None
    sender_type: str | None
    recipient: str | None
    correlation_id: str | None
    session_id: str | None
    project: str | None
    priority: str | None
    sent_at: datetime | None
    outcome: str
    consumer: str
    attempts: int
    envelope: str | None
    raw: bytes
    state: str | None
    details: str | None


#: The columns of a row, by name.
COLUMNS: tuple[str, ...] = tuple(Row.__dataclass_fields__)


def moment_of(ended_ms: int) -> datetime:
    """Return the moment under which something that ended then is filed."""
    return datetime.fromtimestamp(max(0, min(ended_ms, _LAST_MS)) / 1000, UTC)


def row_of(ended: Ended, prefix: str) -> Row:
    """Return the row of one message; an envelope that is none leaves the columns empty, not the row out."""
    envelope = _object(ended.message)
    state = _object(ended.state)
    time, _, number = ended.entry_id.partition("-")
    message_type = _text(envelope, "message_type")
    return Row(
        ended_at=moment_of(ended.ended_ms),
        prefix=prefix,
        address=ended.address,
        ended_ms=ended.ended_ms,
        ended_seq=ended.ended_seq,
        ended_index=ended.ended_index,
        stream=ended.stream,
        entry_ms=int(time),
        entry_seq=int(number),
        message_id=_text(envelope, "message_id"),
        topic=None if message_type is None else f"{ended.address}.{message_type}"[:LONGEST_INDEXED],
        type=message_type,
        sender=_text(envelope, "from_agent"),
        sender_type=_text(envelope, "from_type"),
        recipient=_text(envelope, "to_agent"),
        correlation_id=_text(envelope, "correlation_id"),
        session_id=_text(envelope, "session_id"),
        project=_text(envelope, "project"),
        priority=_text(envelope, "priority"),
        sent_at=_moment(envelope.get("timestamp")),
        outcome=clean(ended.outcome),
        consumer=clean(ended.consumer),
        attempts=_attempts(ended, state),
        envelope=_as_jsonb(ended.message) if envelope else None,
        raw=ended.message,
        state=_as_jsonb(ended.state) if state else None,
        details=_details(ended),
    )


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(envelope: dict[str, Any], field: str) -> str | None:
    value = envelope.get(field)
    return clean(value)[:LONGEST_INDEXED] if isinstance(value, str) else None


def clean(text: str) -> str:
    """Return text that PostgreSQL takes: it knows no NUL and no half of a surrogate pair."""
    return _SURROGATE.sub("�", text.replace("\x00", "�"))


def _as_jsonb(text: bytes) -> str | None:
    return None if _NUL_ESCAPE in text else text.decode()


def _moment(text: object) -> datetime | None:
    """Return the sender's time; one without a zone says nothing, one far off cannot be stored."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        return None if moment is None or moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _attempts(ended: Ended, state: dict[str, Any]) -> int:
    """Return how often the message was given to a handler."""
    counted = dict(ended.details).get(b"attempts", b"")
    if counted.isdigit():
        return min(int(counted), _LARGEST_INTEGER)
    before = state.get("attempt")
    before = before if type(before) is int and before >= 0 else 0
    return min(before + (ended.outcome in _RAN), _LARGEST_INTEGER)


def _details(ended: Ended) -> str | None:
    if not ended.details:
        return None
    pairs = {
        clean(name.decode(errors="backslashreplace")): clean(value.decode(errors="backslashreplace"))
        for name, value in ended.details
    }
    return orjson.dumps(pairs).decode()
