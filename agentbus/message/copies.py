"""Copies of a message that was stored: what is known of it, what is copied, and what became of the copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import orjson

from agentbus.message.policy import Priority

#: Fields that concern those to whom a message is addressed, and nobody who has a copy.
_OF_THE_ADDRESSED = frozenset(("reply_to", "recipients", "recipient_mode", "log_entry"))


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that its own address has stored, for those who want it too."""

    topic: str
    address: str
    message_id: str
    #: The envelope as JSON text.
    text: bytes
    priority: Priority
    #: Loop time until which its sender waits.
    until: float
    #: Where it is stored: ``<lane>:<entry>``; None when its sender was not told.
    place: str | None = None
    #: The idempotency key, the sender's name included; None for a message without.
    key: str | None = None
    #: Whether it was stored before: its key was used again.
    repeated: bool = False
    #: Milliseconds after which it comes due and expires; a point in time in ms for the former; None = none.
    delay_ms: int | None = None
    at_ms: int | None = None
    ttl_ms: int | None = None
    #: When it was stored, by the server's clock in ms, from which its time to live counts; None = just now.
    stored_ms: int | None = None


class RefusedCopy(NamedTuple):
    """A copy that was not made."""

    #: Who should have had it.
    agent: str
    #: ``no_consent``: the agent it was sent to does not allow it; ``refused``: the broker took no copy;
    #: ``deadline``: none was confirmed in time; it may exist, and is made later where it does not.
    reason: str
    #: More for people.
    detail: str = ""


class Copies(NamedTuple):
    """What became of the copies of one message."""

    #: How many agents have one.
    made: int = 0
    refused: tuple[RefusedCopy, ...] = ()


NO_COPIES = Copies()


class Copied(NamedTuple):
    """What travels in place of the message itself."""

    #: The envelope as JSON text.
    text: bytes
    message_id: str
    #: Who sent the message, and needs no copy.
    sender: str | None


def copied(text: bytes, topic: str) -> Copied | None:
    """Return a copy of an envelope; None for a message that is never copied: a direct one.

    A copy says where it comes from and is addressed to nobody: who was asked answers, and who was named gives
    the receipts.
    """
    envelope = orjson.loads(text)
    if envelope.get("recipients") and envelope.get("recipient_mode", "direct") == "direct":
        return None
    kept = {name: value for name, value in envelope.items() if name not in _OF_THE_ADDRESSED}
    text = orjson.dumps({**kept, "copy_of": topic})
    return Copied(text, envelope["message_id"], envelope.get("from_agent"))
