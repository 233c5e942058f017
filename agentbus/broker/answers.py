"""What the scripts of inboxes and logs answer, as values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class RawEntry(NamedTuple):
    """One entry as it was handed out."""

    #: Index into `keys.SOURCES`.
    source: int
    entry_id: bytes
    #: The envelope as JSON text; empty when the entry has no such field.
    message: bytes
    #: The state as JSON text; empty when there is none.
    state: bytes


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What became of one published batch."""

    #: ``stored``, ``recovered`` (it was stored before, the reply was lost) or ``gap`` (nothing written).
    kind: str
    #: Whether anybody has ever served the address.
    known: bool = False
    #: The durability that the address's policy asks for, empty when it has none; then ` <type>=<level>` for
    #: each message type with its own.
    durability: str = ""
    #: ``stored``: an entry id, ``due <id> <ms>`` or ``!refusal`` for each message.
    results: Sequence[bytes] = ()
    #: ``recovered``: refusals by position in the batch, counted from 1.
    refusals: Mapping[str, str] | None = None
    #: ``gap``: the last position the server knows.
    last: int = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """What a consumer learns when it joins."""

    server_ms: int
    served_before: bool


@dataclass(frozen=True, slots=True)
class Promoted:
    """What came due."""

    moved: int
    #: Server time in ms at which the next message comes due.
    next_due_ms: int | None
    server_ms: int
    more: bool
    #: How late the latest of those that moved was, in ms.
    late_ms: int = 0


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one step of a takeover did; None instead of this when the consumer lives."""

    moved: int
    more: bool
    #: Messages that became dead letters, as JSON text: their askers wait.
    dead: Sequence[bytes]
    #: How many of them are parked, because the address has as many dead letters as it may.
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Burial:
    """What became of a delivery that failed for good."""

    #: The dead letter; empty when there was no room for it.
    letter: str
    #: Server time in ms at which a parked one is looked at again; None when it is a dead letter.
    parked_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """One consumer of the group."""

    name: str
    pending: int


def batch_answer(reply: Sequence[Any]) -> BatchAnswer:
    """Return the answer of ``publish.lua`` or ``append.lua`` as a value."""
    kind = reply[0]
    if kind == b"stored":
        return BatchAnswer("stored", reply[1] == 1, reply[2].decode(), results=reply[3:])
    if kind == b"recovered":
        refusals = json.loads(reply[3]) if reply[3] else {}
        return BatchAnswer("recovered", reply[1] == 1, reply[2].decode(), refusals=refusals)
    return BatchAnswer("gap", last=int(reply[1]))


def promoted(reply: Sequence[Any]) -> Promoted:
    """Return what `Inbox.promote_call` was answered."""
    upcoming = float(reply[1] or "inf")
    next_due = int(upcoming) if math.isfinite(upcoming) else None
    return Promoted(int(reply[0]), next_due, int(reply[2]), reply[3] == 1, int(reply[4]))


def raw_entry(source: int, entry: Sequence[Any]) -> RawEntry:
    """Return an entry in the shape that `Inbox.fetch` gives it."""
    entry_id, fields = entry
    values = dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
    return RawEntry(source, entry_id, values.get(b"message", b""), values.get(b"state", b""))
