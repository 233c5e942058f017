"""Which dead letters: by address, type, reason, sender, time and status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, get_args

from agentbus.broker.dead_letters import RawLetter
from agentbus.dead_letters.letter import DeadLetter, Status
from agentbus.errors import InvalidValue
from agentbus.message.durations import Duration, instant_milliseconds, milliseconds
from agentbus.message.topics import check_message_type, check_name, parse_inbox

#: A point in time with its zone, or how long ago: ``"2h"``.
When = datetime | str


class Where(TypedDict, total=False):
    """What a list can be narrowed to besides the address."""

    type: str | None
    reason: str | None
    sender: str | None
    since: When | None
    until: When | None
    status: Status


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are meant; what is left out does not matter. Raises `InvalidValue` for nonsense."""

    #: ``agent.<name>`` or the bare name.
    address: str | None = None
    #: The message type, whole.
    type: str | None = None
    reason: str | None = None
    sender: str | None = None
    #: Died at this time or later: a time with its zone, or how long ago, such as ``"2h"``.
    since: When | None = None
    #: Died before this time.
    until: When | None = None
    status: Status = "dead"

    def __post_init__(self) -> None:
        if self.address is not None:
            object.__setattr__(self, "address", parse_inbox(self.address))
        if self.type is not None:
            check_message_type(self.type, "type")
        if self.sender is not None:
            check_name(self.sender, "sender")
        if self.reason is not None and (not isinstance(self.reason, str) or not self.reason):
            raise InvalidValue("reason", f"must be a word such as exhausted, not {self.reason!r}")
        if self.status not in get_args(Status):
            raise InvalidValue("status", f"{self.status!r} is not one of {', '.join(get_args(Status))}")
        since, until = _instant(self.since, "since", 0), _instant(self.until, "until", 0)
        if since is not None and until is not None and until <= since:
            raise InvalidValue("until", "must be later than since: nothing died in between")

    def span(self, server_ms: int) -> tuple[int, int | None]:
        """Return the first and the last time of death that fit, in ms by the server's clock."""
        until = _instant(self.until, "until", server_ms)
        return _instant(self.since, "since", server_ms) or 0, None if until is None else until - 1

    def fits_unread(self, raw: RawLetter) -> bool:
        """Whether a letter may fit, as far as that can be told without decoding its message."""
        return self.reason is None or raw.fields.get("reason", b"") == self.reason.encode()

    def fits(self, letter: DeadLetter) -> bool:
        """Whether a letter fits, apart from its time."""
        return (
            self.reason in (None, letter.reason)
            and self.type in (None, letter.type)
            and self.sender in (None, letter.sender)
        )

    @property
    def waits(self) -> bool:
        """Whether it is about messages that wait for their time, which are found by it."""
        return self.status in ("retrying", "parked")

    @property
    def reads_messages(self) -> bool:
        """Whether it takes the message itself to tell."""
        return self.type is not None or self.sender is not None

    def __str__(self) -> str:
        names = ("address", "type", "reason", "sender", "since", "until")
        parts = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name) is not None]
        return ", ".join(parts) or "all"


def _instant(value: When | None, name: str, server_ms: int) -> int | None:
    """Return a time in ms; one that is given as a duration is so long before ``server_ms``."""
    if value is None:
        return None
    ago = _ago(value)
    if ago is not None:
        return server_ms - ago
    try:
        return instant_milliseconds(value, name)
    except InvalidValue:
        raise InvalidValue(
            name, f"must be a time such as 2026-12-31T23:59:59Z or how long ago, such as 2h, not {value!r}"
        ) from None


def _ago(value: When) -> int | None:
    if not isinstance(value, str):
        return None
    duration: Duration = value
    try:
        return milliseconds(duration, "since")
    except InvalidValue:
        return None
