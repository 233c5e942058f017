"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass

OK_, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``agentbus doctor``."""

    #: What was examined: ``memory``, or an address.
    subject: str
    #: ``ok``, ``warn`` or ``bad``.
    status: str
    detail: str
    #: What to do, or what follows from it.
    advice: str = ""
