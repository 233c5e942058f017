"""The policy of an address, or of one message type there: what holds unless a message says otherwise."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from agentbus.errors import InvalidValue
from agentbus.message.durations import Duration, exact, milliseconds, seconds
from agentbus.message.policy import Durability, Retry, WhenExhausted, check_durability

#: handled: a message is settled after its handler. none: before it, so that it is run at most once.
Acknowledgement = Literal["handled", "none"]
#: required: history stays, and publishing is refused when full, until the archive has it. may_lose: history
#: goes when retention says so, archived or not. never: the archive leaves this address out.
Archiving = Literal["required", "may_lose", "never"]
#: How a message can end.
Outcome = Literal["processed", "expired", "cancelled", "discarded", "resolved", "moved"]


#: Those that are durations.
DURATIONS = frozenset(
    (
        "retry_delay",
        "acknowledgement_timeout",
        "ttl",
        "history_age",
        "dead_age",
        "dead_retry_delay",
        "loop_window",
    )
)
_NUMBERS = frozenset(
    (
        "max_retries",
        "limit",
        "history_messages",
        "history_bytes",
        "dead_limit",
        "dead_retries",
        "max_hops",
        "loop_messages",
    )
)
#: What a log can honour: `limit` is the most messages it may hold.
_FOR_CHANNELS = frozenset(
    (
        "durability",
        "limit",
        "history_messages",
        "history_age",
        "history_bytes",
        "archive",
        "max_hops",
        "loop_messages",
        "loop_window",
    )
)
#: Where a policy says nothing: handlers in a row that may lead to a message; messages that one sender may
#: send to one address from within handlers in one conversation, and the time in which (ms).
LOOP_LIMITS = (64, 20, 60_000)


@dataclass(frozen=True, slots=True)
class Policy:
    """Declared once per address and stored with it; what is left out keeps the library's default.

    A message's own options win over the policy, a handler's own retry too. Declared for a topic, it wins over
    the policy of the address; `TOPIC_FIELDS` are those that a topic may have.
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
    #: Handlers in a row that may lead to a message that comes here; 0 = any number.
    max_hops: int | None = None
    #: Messages that one sender may send here from within handlers in one conversation and ``loop_window``;
    #: 0 = any number. All types of message are counted together.
    loop_messages: int | None = None
    loop_window: Duration | None = None

    def __post_init__(self) -> None:
        if self.durability is not None:
            check_durability(self.durability)
        if self.acknowledgement is not None and self.acknowledgement not in get_args(Acknowledgement):
            raise InvalidValue("acknowledgement", f"{self.acknowledgement!r} is not one of handled, none")
        if self.archive is not None and self.archive not in get_args(Archiving):
            raise InvalidValue("archive", f"{self.archive!r} is not one of required, may_lose, never")
        if self.history_outcomes is not None:
            check_outcomes(self.history_outcomes)
        for name in DURATIONS:
            value = getattr(self, name)
            if value is not None and seconds(value, name) == 0 and name == "loop_window":
                raise InvalidValue(name, "must be longer than zero; loop_messages=0 takes the limit away")
        for name in _NUMBERS - {"max_retries"}:
            value = getattr(self, name)
            least = int(name in ("limit", "dead_limit"))
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < least):
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
        for name in self.declared():
            if name not in _FOR_CHANNELS:
                raise InvalidValue(
                    name,
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
        for name in FIELDS:
            value = getattr(self, name)
            if value is None:
                continue
            if name in DURATIONS:
                stored[f"{name}_ms"] = str(milliseconds(value, name))
            elif isinstance(value, tuple):
                # Sorted, so that the same outcomes in another order are no conflict.
                stored[name] = " ".join(sorted(value))
            else:
                stored[name] = str(value)
        return stored

    @classmethod
    def from_fields(cls, stored: Mapping[str, str]) -> Policy:
        """Return the policy that was stored; raises `InvalidValue` for one written by hand that is none."""
        values: dict[str, Any] = {}
        for name in FIELDS:
            text = stored.get(f"{name}_ms" if name in DURATIONS else name)
            if text is None:
                continue
            try:
                values[name] = _parsed(name, text)
            except ValueError as error:
                raise InvalidValue(name, f"is stored as {text!r}, which is no number") from error
        return cls(**values)

    def declared(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}


#: The fields of a policy.
FIELDS: tuple[str, ...] = tuple(each.name for each in fields(Policy))
#: Those that can be declared for one message type. The others count or keep what a whole address holds.
TOPIC_FIELDS = (
    "durability", "acknowledgement", "max_retries", "retry_delay", "when_exhausted",
    "acknowledgement_timeout", "ttl", "max_hops", "loop_messages",
)  # fmt: skip
NO_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Policies:
    """What is declared for an address: for all of it, and for single message types."""

    address: Policy = NO_POLICY
    #: By message type: the policy in force, that is, with what the address fills in.
    topics: Mapping[str, Policy] = field(default_factory=dict)

    def of(self, message_type: str) -> Policy:
        """Return the policy in force for one message type."""
        return self.topics.get(message_type, self.address)

    @property
    def at_most_once(self) -> bool:
        """Whether any message here may be settled before it is handled."""
        return any(policy.acknowledgement == "none" for policy in (self.address, *self.topics.values()))

    @classmethod
    def from_fields(cls, stored: Mapping[str, str]) -> Policies:
        """Return what was stored; raises `InvalidValue` for a policy written by hand that is none."""
        scopes = by_scope(stored)
        own = scopes.pop("", {})
        topics = {scope: Policy.from_fields({**own, **set_there}) for scope, set_there in scopes.items()}
        return cls(Policy.from_fields(own), topics)


#: Where nothing is declared.
NO_POLICIES = Policies()


def by_scope(stored: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Sort stored fields by what they hold for: the empty text is the address, else a message type."""
    scopes: dict[str, dict[str, str]] = {}
    for name, value in stored.items():
        scope, colon, own = name.rpartition(":")
        if colon or name != "topics":
            scopes.setdefault(scope, {})[own] = value
    return scopes


def check_scope(policy: Policy, topic: str) -> None:
    """Raise `InvalidValue` for a field that a single message type cannot have."""
    for name in policy.declared():
        if name not in TOPIC_FIELDS:
            address = ".".join(topic.split(".")[:2])
            raise InvalidValue(name, f"holds for a whole address; declare it for {address}, not for {topic}")


def parse_policy(given: Mapping[str, Any]) -> Policy:
    """Return a policy from text or values by field; raises `InvalidValue` naming the first at fault."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=3, cutoff=0.6)
            meant = f"did you mean {' or '.join(close)}? All" if close else "those"
            raise InvalidValue(name, f"is no field of a policy; {meant} are {', '.join(FIELDS)}")
        values[name] = value
        if name == "history_outcomes":
            # `history_outcomes=` keeps no history at all.
            values[name] = tuple(filter(None, value.split(","))) if isinstance(value, str) else tuple(value)
        elif isinstance(value, str) and (name in _NUMBERS or name in DURATIONS):
            with contextlib.suppress(ValueError):
                values[name] = int(value) if name in _NUMBERS else float(value)
    return Policy(**values)


def as_given(stored: Mapping[str, str]) -> dict[str, str]:
    """Return stored fields as they are declared, for people; what somebody wrote by hand as it is."""
    given = {}
    for name, text in stored.items():
        field_name = name.removesuffix("_ms")
        duration = field_name in DURATIONS and name != field_name and text.isdecimal()
        given[field_name if duration else name] = exact(int(text)) if duration else text
    return given


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
    if name in DURATIONS:
        return int(text) / 1000
    return int(text) if name in _NUMBERS else text
