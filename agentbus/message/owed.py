"""Copies that are owed: what the address of a message notes with it until they are made. No I/O.

Whoever publishes makes the copies; the note is for those who make them in its place when it dies in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentbus.message.copies import Arrival
from agentbus.message.policy import PRIORITIES

#: How long after it was stored a message's copies are left to its publisher, in ms: as long as one usually
#: tries. Somebody else who tries meanwhile does what was done, and does no harm.
GRACE_MS = 30_000
#: Of how many messages an address may owe copies. More than any number of publishers has on its way: only
#: those that die again and again, where nobody makes their copies, come to it.
MOST_OWED = 1_000_000
#: Options of the publish script on which the copies depend.
_KEPT = ("key", "delay", "at", "ttl")


@dataclass(frozen=True, slots=True)
class Debt:
    """The copies of one message that are owed."""

    arrival: Arrival
    #: Who should have them.
    agents: tuple[str, ...]


class DebtNotes:
    """What a script is told of a batch of which copies are owed from the moment it is stored."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        #: Note to its number. Most messages of a batch have the same one.
        self._notes: dict[str, int] = {}
        self._of: list[int] = []
        #: The last plain message's topic and priority, and the number of its note.
        self._plain: tuple[str, int, int] = ("", 0, 0)

    def skip(self) -> None:
        """Enter the next message of the batch: of this one no copies are owed."""
        self._ids.append("")
        self._of.append(1)

    def enter(
        self, message_id: str, topic: str, lane: int, option: Mapping[str, Any] | None, agents: Sequence[str]
    ) -> None:
        """Enter the next message of the batch, of which copies are owed."""
        plain, number = self._plain, 0
        if option is None and plain[:2] == (topic, lane):
            number = plain[2]
        else:
            note = _note(topic, lane, option or {}, agents)
            number = self._notes.setdefault(note, len(self._notes) + 1)
            if option is None:
                self._plain = (topic, lane, number)
        self._ids.append(message_id)
        self._of.append(number)

    def told(self) -> dict[str, Any]:
        """Return it as the scripts take it, see ``include/owe.lua``."""
        told = {"ids": self._ids, "notes": list(self._notes), "grace": GRACE_MS, "most": MOST_OWED}
        return told if len(self._notes) == 1 else {**told, "of": self._of}


def _note(topic: str, lane: int, option: Mapping[str, Any], agents: Sequence[str]) -> str:
    about = {"topic": topic, "priority": PRIORITIES[lane]}
    about |= {name: option[name] for name in _KEPT if name in option}
    # Names have no commas. Scripts change the list, and take the rest as it is.
    return f"{','.join(agents)} {orjson.dumps(about).decode()}"


def text_of(record: bytes) -> bytes:
    """Return the envelope of the message of which a stored record says that its copies are owed."""
    return record.partition(b"\n")[2]


def parse_debt(address: str, message_id: str, record: bytes, until: float) -> Debt | None:
    """Return what a stored record says; None for one that is none: somebody's hand wrote or removed it.

    ``until`` is the loop time until which the copies are tried.
    """
    try:
        head, _, text = record.partition(b"\n")
        stored_ms, place, agents, about = head.decode().split(" ", 3)
        known = orjson.loads(about)
        delay_ms, at_ms = known.get("delay"), known.get("at")
        arrival = Arrival(
            topic=known["topic"],
            address=address,
            message_id=message_id,
            text=text,
            priority=PRIORITIES[PRIORITIES.index(known["priority"])],
            until=until,
            place=None if place == "-" else place,
            key=known.get("key"),
            at_ms=at_ms if delay_ms is None else int(stored_ms) + delay_ms,
            ttl_ms=known.get("ttl"),
            stored_ms=int(stored_ms),
        )
        orjson.loads(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Debt(arrival, tuple(agents.split(",")))
