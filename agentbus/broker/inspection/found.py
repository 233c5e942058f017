"""What is known of one message: where it is, and what happened to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentbus.message.message import Message


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message is, or where it ended."""

    address: str
    #: ``waiting``, ``returned``, ``in_flight``, ``due``, ``dead`` or ``ended``; ``logged`` in a channel.
    status: str
    #: The lane's priority, ``returned``, ``due``, ``dead`` or ``ended``; ``log`` of a channel.
    stream: str
    entry_id: str
    #: Server time in ms: waiting or held since, due at, dead or ended at; None when no record is left.
    at_ms: int | None
    #: Who holds it or ended it.
    consumer: str | None
    #: For an ended one the outcome, for a dead one the reason.
    outcome: str
    detail: str
    #: Attempts begun so far, the running one included.
    attempts: int
    #: attempt, crashes, expires, first_failure, last_failure, … as the scripts keep them.
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One outcome of one delivery, as the address recorded it."""

    address: str
    #: Server time in ms.
    at_ms: int
    outcome: str
    consumer: str
    stream: str
    entry_id: str
    #: The record in ``outcomes``: its place in time also within one millisecond.
    record_id: str


@dataclass(slots=True)
class Found:
    """What was found of one message."""

    #: None where only records of it are left.
    message: Message | None = None
    places: list[Place] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
