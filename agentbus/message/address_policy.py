"""The policy of an address: what holds for its messages unless a message says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from agentbus.errors import InvalidValue
from agentbus.message.durations import Duration, milliseconds, seconds
from agentbus.message.policy import Durability, Retry, WhenExhausted, check_durability

#: handled: a message is settled after its handler. none: before it, so that it is run at most once.
Acknowledgement = Literal["handled", "none"]
#: required: history stays, and publishing is refused when full, until the archive has it. may_lose: history
#: goes when retention says so, archived or not. never: the archive leaves this address out.
Archiving = Literal["required", "may_lose", "never"]
#: How a message can end.
Outcome = Literal["processed", "expired", "cancelled", "discarded", "resolved", "moved"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Declared once per address and stored with it; what is left out keeps the library's default.

    A message's own options win over the policy, a handler's own retry too.
    """

    durability: Durability | None = None
    acknowledgement: Acknowledgement | None = None
    max_retries: int | None = None
    retry_delay: Duration | None = None
    when_exhausted: WhenExhausted | None = None
    #: How long a pulled delivery may stay unsettled.
    acknowledgement_timeout: Duration | None = None
    #: For messages published without one.
    ttl: Duration | None = None
    #: Unsettled messages the address may hold.
    limit: int | None = None
    #: Ended messages kept per lane, their longest age, and bytes per address.
    history_messages: int | None = None
    history_age: Duration | None = None
    history_bytes: int | None = None
    #: Of messages that ended otherwise no history is kept; all outcomes when left out.
    history_outcomes: tuple[Outcome, ...] | None = None
    #: What to do with the archive, where one is on; required when left out.
    archive: Archiving | None = None
    #: Dead letters kept, resolved ones included; what dies beyond that is parked and tried again later.
    dead_limit: int | None = None
    #: How long a dead letter waits for a person.
    dead_age: Duration | None = None
    #: How often dead letters are retried by themselves, and how long after they died; 0 = never.
    dead_retries: int | None = None
    dead_retry_delay: Duration | None = None

    def __post_init__(self) -> None:
        if self.durability is not None:
            check_durability(self.durability)
        if self.acknowledgement is not None and self.acknowledgement not in get_args(Acknowledgement):
            raise InvalidValue("acknowledgement", f"{self.acknowledgement!r} is not one of handled, none")
        if self.archive is not None and self.archive not in get_args(Archiving):
            raise InvalidValue("archive", f"{self.archive!r} is not one of required, may_lose, never")
        if self.history_outcomes is not None:
            check_outcomes(self.history_outcomes)
        for name in _DURATIONS:
            value = getattr(self, name)
            if value is not None:
                seconds(value, name)
        for name in _NUMBERS - {"max_retries"}:
            value = getattr(self, name)
            least = int(name in ("limit", "dead_limit"))
            if value is not None and (not isinstance(value, int) or value < least):
                raise InvalidValue(name, f"must be a whole number of {least} or more, not {value!r}")
        self.retry(Retry())

    def retry(self, default: Retry) -> Retry:
        """Return ``default`` with what this policy sets."""
        return Retry(
            max_retries=default.max_retries if self.max_retries is None else self.max_retries,
            retry_delay=default.retry_delay if self.retry_delay is None else self.retry_delay,
            longest_delay=default.longest_delay,
            shortest_delay=default.shortest_delay,
            when_exhausted=self.when_exhausted or default.when_exhausted,
        )

    def check_for_channel(self, address: str) -> None:
        """Raise `InvalidValue` for the first field that only an inbox can honour."""
        for field in fields(self):
            if field.name not in _FOR_CHANNELS and getattr(self, field.name) is not None:
                raise InvalidValue(
                    field.name,
                    f"{address} is a channel, where nothing is handed out; a channel's policy has "
                    + ", ".join(sorted(_FOR_CHANNELS)),
                )

    @property
    def must_be_archived(self) -> bool:
        """Whether, where an archive is on, nothing may leave the address before the archive has it."""
        return self.archive in (None, "required")

    def to_fields(self) -> dict[str, str]:
        """Return what is stored: durations in whole milliseconds under ``<name>_ms``."""
        stored: dict[str, str] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name in _DURATIONS:
                stored[f"{field.name}_ms"] = str(milliseconds(value, field.name))
            elif isinstance(value, tuple):
                # Sorted, so that the same outcomes in another order are no conflict.
                stored[field.name] = " ".join(sorted(value))
            else:
                stored[field.name] = str(value)
        return stored

    @classmethod
    def from_fields(cls, stored: Mapping[str, str]) -> Policy:
        """Return the policy that was stored; raises `InvalidValue` for one written by hand that is none."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = stored.get(f"{field.name}_ms" if field.name in _DURATIONS else field.name)
            if text is None:
                continue
            try:
                values[field.name] = _parsed(field.name, text)
            except ValueError as error:
                raise InvalidValue(field.name, f"is stored as {text!r}, which is no number") from error
        return cls(**values)


_DURATIONS = frozenset(
    ("retry_delay", "acknowledgement_timeout", "ttl", "history_age", "dead_age", "dead_retry_delay")
)
_NUMBERS = frozenset(
    ("max_retries", "limit", "history_messages", "history_bytes", "dead_limit", "dead_retries")
)
#: What a log can honour: `limit` is the most messages it may hold.
_FOR_CHANNELS = frozenset(
    ("durability", "limit", "history_messages", "history_age", "history_bytes", "archive")
)


def check_outcomes(outcomes: object) -> None:
    """Raise `InvalidValue` unless these are outcomes of messages, each of them once."""
    known = get_args(Outcome)
    if not isinstance(outcomes, tuple):
        raise InvalidValue("history_outcomes", f"must be a tuple of {', '.join(known)}, not {outcomes!r}")
    for outcome in outcomes:
        if outcome not in known:
            raise InvalidValue("history_outcomes", f"{outcome!r} is not one of {', '.join(known)}")
    if len(set(outcomes)) < len(outcomes):
        raise InvalidValue("history_outcomes", f"names an outcome twice: {', '.join(outcomes)}")


def _parsed(name: str, text: str) -> Any:
    if name == "history_outcomes":
        return tuple(text.split())
    if name in _DURATIONS:
        return int(text) / 1000
    return int(text) if name in _NUMBERS else text
