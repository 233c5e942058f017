"""How a delivery ends: one closed list of values. Deciding is pure; effects come after."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Every way a delivery can end in this process. Elsewhere it can also be reclaimed or expire."""

    PROCESSED = "processed"
    RETRIED = "retried"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    RELEASED = "released"
    DEAD = "dead"
    DISCARDED = "discarded"
    EXPIRED = "expired"


#: Outcomes after which the message is still to be handled by somebody.
PASSED_ON = frozenset((Kind.RETRIED, Kind.DEFERRED, Kind.BOUNCED, Kind.RELEASED))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One outcome with what is needed to carry it out."""

    kind: Kind
    #: Until the message is handed out again.
    delay_ms: int = 0
    #: A stable word for the cause, such as ``rejected`` or ``exhausted``.
    reason: str = ""
    #: The same for people.
    detail: str = ""
    #: What the handler returned; only told to an asker.
    reply: Any = None
    max_retries: int = 0


PROCESSED = Outcome(Kind.PROCESSED)
RELEASED = Outcome(Kind.RELEASED)
EXPIRED = Outcome(Kind.EXPIRED, reason="expired", detail="its time to live ended before a handler was free")
