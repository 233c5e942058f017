"""Where answers go: to the process that asks, to one question of it, and in the form it can take them.

The form is part of the address, so that whoever answers knows it: parts that nobody wants are not sent, and a
question to a channel is told from one to an inbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_REPLY_ADDRESS = re.compile(r"reply\.([a-z0-9-]{1,63})\.([0-9]{1,19})(?:\.(all|parts))?")


class Wants(StrEnum):
    """What an asker can take."""

    ONE = "one"
    #: An answer of everybody who read the question in a channel.
    ALL = "all"
    #: One answer, and before it its parts as they come.
    PARTS = "parts"


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """The address of one question."""

    process: str
    number: int
    wants: Wants = Wants.ONE

    @classmethod
    def parse(cls, text: str | None) -> ReplyAddress | None:
        """Return the address that a text is; None for a text that is none."""
        found = _REPLY_ADDRESS.fullmatch(text) if text else None
        return cls(found[1], int(found[2]), Wants(found[3] or "one")) if found else None

    def __str__(self) -> str:
        form = "" if self.wants is Wants.ONE else f".{self.wants}"
        return f"reply.{self.process}.{self.number}{form}"


@dataclass(frozen=True, slots=True)
class PartMark:
    """Which part this is: what the parts of one answer are put in order by.

    Parts of different runs of a handler (retries, another owner after a death) are never one answer.
    """

    #: One call of one handler; nobody else has the same.
    run: str = ""
    #: 1 for the first attempt.
    attempt: int = 1
    #: From 0; in the answer that ends the run: how many parts came before it.
    number: int = 0

    def to_field(self) -> dict[str, Any]:
        """Return it as the field ``part`` of an envelope."""
        return {"run": self.run, "attempt": self.attempt, "number": self.number}

    @classmethod
    def of(cls, envelope: Mapping[str, Any]) -> PartMark:
        """Return the mark of an envelope; one without (or with none that makes sense) is a run of its own."""
        field = envelope.get("part")
        if not isinstance(field, dict):
            return cls()
        run, attempt, number = field.get("run"), field.get("attempt"), field.get("number")
        if not isinstance(run, str) or not isinstance(attempt, int) or not isinstance(number, int):
            return cls()
        return cls(run, attempt, number)
