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
    #: The budget it was tried within; None where none was asked for: nothing could run it.
    max_retries: int | None = None
    #: Processed in so far as it was read and needs no reply.
    acknowledged: bool = False


#: Longer texts of exceptions are cut in records; the handler's own log has them whole.
_LONGEST_TEXT = 2_000


def storable(value: object) -> str:
    """Return a text that can be stored, whatever a handler raised.

    Names of files may hold lone surrogates, which no UTF-8 has, and a ``__str__`` may fail: neither may keep
    a delivery from being settled.
    """
    try:
        text = str(value)
    except Exception:
        text = f"(a {type(value).__name__} that cannot be written as text)"
    return text[:_LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8")


PROCESSED = Outcome(Kind.PROCESSED)
ACKNOWLEDGED = Outcome(Kind.PROCESSED, acknowledged=True)
#: A message of a channel that is of no concern to the agent; said to an asker, who would wait for it.
PASSED_BY = Outcome(
    Kind.PROCESSED, reason="no_handler", detail="it reads the channel, and has no handler for this type"
)
RELEASED = Outcome(Kind.RELEASED)
EXPIRED = Outcome(Kind.EXPIRED, reason="expired", detail="its time to live ended before a handler was free")
