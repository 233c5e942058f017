"""What is asked of the history, checked once."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypedDict, cast

from agentbus.broker.inspection.inbox_view import ENDINGS
from agentbus.broker.inspection.kept import Point, Window
from agentbus.broker.inspection.unended import STAGES
from agentbus.errors import InvalidValue
from agentbus.message.durations import instant_milliseconds, seconds
from agentbus.message.message import Message
from agentbus.message.topics import check_message_type, check_name, is_channel

#: A point in time: a datetime or RFC 3339 text; or how long ago: a timedelta or ``"2h"``.
Moment = datetime | timedelta | str

_AGO = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+", re.IGNORECASE)
_STATES = (*STAGES, "ended")


class HistoryFilters(TypedDict, total=False):
    """What a query of the history can be narrowed to."""

    #: Ended (in a channel: sent) at this time or later.
    since: Moment | None
    #: Ended before this time. What has not ended yet is then left out.
    until: Moment | None
    #: A message type such as ``task``, or ``task.*`` for all that begin so.
    type: str | None
    #: The name of the sending agent.
    sender: str | None
    #: The conversation.
    correlation_id: str | None
    #: Text in the body, in upper or lower case.
    grep: str | None
    #: waiting, in_flight, due, dead or ended.
    state: str | None
    #: processed, expired, cancelled, discarded, resolved or moved.
    outcome: str | None
    #: Begin with the oldest; left out: with the newest.
    oldest_first: bool


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """One query; pages of it belong together."""

    address: str
    since_ms: int | None
    until_ms: int | None
    type: str | None
    sender: str | None
    correlation_id: str | None
    #: Lower case.
    grep: str | None
    state: str | None
    outcome: str | None
    oldest_first: bool
    #: Tells a cursor of this query from those of others.
    digest: str

    @property
    def is_channel(self) -> bool:
        """Whether the address is a channel; else it is an inbox."""
        return is_channel(self.address)

    @property
    def reads_bodies(self) -> bool:
        """Whether the filters look into messages."""
        asked = (self.type, self.sender, self.correlation_id, self.grep)
        return any(each is not None for each in asked)

    @property
    def filters(self) -> bool:
        """Whether messages are left out by what they are, not by their time."""
        return self.reads_bodies or self.outcome is not None

    @property
    def window(self) -> Window:
        """The part of the order of ends that the query covers."""
        above: Point | None = None if self.since_ms is None else (self.since_ms, 0, -1)
        below: Point | None = None if self.until_ms is None else (self.until_ms, 0, -1)
        return Window(above, below, not self.oldest_first)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to read, in their order."""
        if self.is_channel:
            return ("ended",)
        newest_first = (*STAGES, "ended")
        stages = tuple(stage for stage in newest_first if self._covers(stage))
        return stages[::-1] if self.oldest_first else stages

    def _covers(self, stage: str) -> bool:
        if self.state is not None:
            return stage == self.state
        return stage == "ended" or (self.outcome is None and self.until_ms is None)

    def matches(self, message: Message | None, outcome: str) -> bool:
        """Whether a message is asked for; of one that cannot be read only the outcome is known."""
        if self.outcome is not None and outcome != self.outcome:
            return False
        if not self.reads_bodies:
            return True
        if message is None:
            return False
        if self.type is not None and not _is_type(message.message_type, self.type):
            return False
        if self.sender is not None and message.from_agent != self.sender:
            return False
        if self.correlation_id is not None and message.correlation_id != self.correlation_id:
            return False
        return self.grep is None or self.grep in _text_of(message)


def new_query(address: str, filters: HistoryFilters, now_ms: int | None = None) -> HistoryQuery:
    """Return a query after checking it; raises `InvalidValue` that names the filter at fault.

    ``now_ms`` is what "so long ago" is counted from: the server's clock, as all times of the history are.
    """
    _check_known(filters)
    since, until = filters.get("since"), filters.get("until")
    since_ms = None if since is None else moment_milliseconds(since, "since", now_ms)
    until_ms = None if until is None else moment_milliseconds(until, "until", now_ms)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise InvalidValue("until", f"{until!r} is not after since, {since!r}: nothing can be between them")
    state = _one_of(filters.get("state"), "state", _STATES)
    outcome = _one_of(filters.get("outcome"), "outcome", ENDINGS)
    if outcome is not None and state not in (None, "ended"):
        raise InvalidValue("outcome", f"a message that is {state} has none; leave one of the two out")
    if until_ms is not None and state not in (None, "ended"):
        raise InvalidValue("until", f"a message that is {state} has not ended; leave one of the two out")
    return HistoryQuery(
        address=address,
        since_ms=since_ms,
        until_ms=until_ms,
        type=_type_pattern(filters.get("type")),
        sender=_sender(filters.get("sender")),
        correlation_id=_correlation(filters.get("correlation_id")),
        grep=_grep(filters.get("grep")),
        state=state,
        outcome=outcome,
        oldest_first=bool(filters.get("oldest_first", False)),
        digest=_digest(address, filters),
    )


def counts_from_now(filters: HistoryFilters) -> bool:
    """Whether a filter says how long ago."""
    return any(_is_ago(moment) for moment in (filters.get("since"), filters.get("until")))


def _is_ago(value: Moment | None) -> bool:
    return isinstance(value, timedelta) or (isinstance(value, str) and bool(_AGO.fullmatch(value.strip())))


def moment_milliseconds(value: Moment, field: str, now_ms: int | None = None) -> int:
    """Return a point in time, or one so long before now, as Unix milliseconds."""
    if _is_ago(value):
        now = time.time() * 1000 if now_ms is None else now_ms
        return max(0, round(now - seconds(cast("timedelta | str", value), field) * 1000))
    try:
        return max(0, instant_milliseconds(cast("datetime | str", value), field))
    except InvalidValue as error:
        raise InvalidValue(field, f'{error.problem}; or how long ago, such as "2h"') from None


def _check_known(filters: HistoryFilters) -> None:
    """Refuse what is no filter: left aside, more would be found than was asked for."""
    unknown = filters.keys() - HistoryFilters.__annotations__.keys()
    if unknown:
        known = ", ".join(HistoryFilters.__annotations__)
        raise InvalidValue(sorted(unknown)[0], f"is no filter of the history; those are {known}")


def _grep(text: str | None) -> str | None:
    if text is not None and not isinstance(text, str):
        raise InvalidValue("grep", f"must be text, not {text!r}")
    return text.lower() if text else None


def _type_pattern(pattern: str | None) -> str | None:
    if pattern is not None:
        if not isinstance(pattern, str):
            raise InvalidValue("type", f"must be text, not {pattern!r}")
        check_message_type(pattern.removesuffix(".*"), "type")
    return pattern


def _sender(sender: str | None) -> str | None:
    return None if sender is None else check_name(sender.removeprefix("agent."), "sender")


def _correlation(correlation_id: str | None) -> str | None:
    if correlation_id is not None and not (isinstance(correlation_id, str) and correlation_id):
        raise InvalidValue("correlation_id", f"{correlation_id!r} is none; give that of a message")
    return correlation_id


def _one_of(value: str | None, field: str, known: tuple[str, ...]) -> str | None:
    if value is not None and value not in known:
        raise InvalidValue(field, f"{value!r} is none of {', '.join(known)}")
    return value


def _is_type(message_type: str, pattern: str) -> bool:
    if pattern.endswith(".*"):
        return message_type.startswith(pattern[:-1])
    return message_type == pattern


def _text_of(message: Message) -> str:
    # As PostgreSQL writes JSON, so that a text is found in both stores or in neither.
    return json.dumps(message.envelope.get("body"), ensure_ascii=False).lower()


def _digest(address: str, filters: HistoryFilters) -> str:
    # As given, not as understood: "2h" ago means another time at each page, and the same query.
    given = {name: str(value) for name, value in filters.items() if value is not None and value is not False}
    text = json.dumps([address, given], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
