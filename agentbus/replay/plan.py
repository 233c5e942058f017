"""What is to be replayed, checked once, and how far it is."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, cast

import uuid_utils

from agentbus.errors import InvalidValue
from agentbus.history.entry import HistoryGap
from agentbus.history.query import HistoryFilters, Moment, moment_milliseconds, new_query
from agentbus.message.topics import parse_address, parse_inbox

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


class ReplayFilters(TypedDict, total=False):
    """Which part of the history is replayed; as `HistoryFilters`."""

    since: Moment | None
    until: Moment | None
    type: str | None
    sender: str | None
    correlation_id: str | None
    grep: str | None


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """One replay."""

    id: str
    address: str
    #: The inbox that gets the messages.
    to: str
    #: As they were given: the same words mean the same replay, whenever it goes on.
    asked: dict[str, str]
    #: As they were understood when it began.
    filters: ReplayFilters
    limit: int | None

    @property
    def query(self) -> HistoryFilters:
        """What is asked of the history."""
        asked = cast("HistoryFilters", self.filters)
        return {**asked, "state": "ended", "oldest_first": True}


@dataclass(frozen=True, slots=True)
class ReplayState:
    """How far a replay is."""

    asked: dict[str, str]
    since_ms: int | None
    until_ms: int
    #: Of the next page; None: it begins, or has ended.
    cursor: str | None = None
    count: int = 0
    #: Ended messages whose content was removed, or is none.
    skipped: int = 0
    gaps: dict[str, str] = field(default_factory=dict)
    ended: bool = False

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def with_gaps(self, gaps: tuple[HistoryGap, ...]) -> ReplayState:
        """Return it with what a page says is missing; a page that ended early is followed by the rest."""
        found = {gap.kind: gap.reason for gap in gaps if gap.kind != "scan"}
        return replace(self, gaps={**found, **self.gaps})


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """Told after each message and each pause."""

    id: str
    count: int
    #: It waits until the inbox has room.
    paused: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did."""

    id: str
    address: str
    to: str
    #: Messages that the inbox was given, those before an interruption included.
    count: int
    #: Ended messages that could not be replayed: their content was removed, or is no message.
    skipped: int
    #: Why some of the range is missing.
    gaps: tuple[HistoryGap, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing of the range is known to be missing."""
        return not self.gaps and not self.skipped

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "complete": self.complete}


def new_plan(
    address: str, to: str, replay_id: str | None, limit: int | None, filters: ReplayFilters
) -> ReplayPlan:
    """Return a plan; raises `InvalidValue` that names what is at fault."""
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InvalidValue("limit", f"must be a whole number from 1, not {limit!r}")
    if replay_id is not None and not _ID.fullmatch(replay_id):
        raise InvalidValue("replay_id", f"{replay_id!r} is none: 1 to 63 letters, digits, '_' and '-'")
    found, target = parse_address(address), parse_inbox(to, "to")
    unknown = filters.keys() - ReplayFilters.__annotations__.keys()
    if unknown:
        known = ", ".join(ReplayFilters.__annotations__)
        raise InvalidValue(sorted(unknown)[0], f"is no filter of a replay; those are {known}")
    new_query(found, cast("HistoryFilters", filters))
    asked = {name: str(value) for name, value in filters.items() if value is not None}
    asked |= {"address": found, "to": target, "limit": str(limit)}
    return ReplayPlan(replay_id or str(uuid_utils.uuid7()), found, target, asked, filters, limit)


def begun(plan: ReplayPlan, server_ms: int) -> ReplayState:
    """Return the state of a replay that begins now: it never comes to what it causes itself."""
    since, until = plan.filters.get("since"), plan.filters.get("until")
    end = server_ms + 1
    return ReplayState(
        plan.asked,
        None if since is None else moment_milliseconds(since, "since", server_ms),
        end if until is None else min(moment_milliseconds(until, "until", server_ms), end),
    )


def resumed(plan: ReplayPlan, record: dict[str, Any]) -> ReplayState:
    """Return the state of a replay that goes on; raises `InvalidValue` when the id is another one's."""
    try:
        state = ReplayState(**record)
    except TypeError:
        raise InvalidValue(
            "replay_id", f"the record of replay {plan.id} is damaged; use another id"
        ) from None
    if state.asked != plan.asked:
        raise InvalidValue(
            "replay_id",
            f"{plan.id} is another replay: {_shown(state.asked)}; repeat that one, or use another id",
        )
    return state


def at(plan: ReplayPlan, state: ReplayState) -> ReplayPlan:
    """Return the plan with its limits of time as they were understood when it began."""
    since = None if state.since_ms is None else _moment(state.since_ms)
    given = ReplayFilters(**{**plan.filters, "since": since, "until": _moment(state.until_ms)})
    return replace(plan, filters=given)


def _moment(milliseconds: int) -> datetime:
    return _BEGIN + timedelta(milliseconds=milliseconds)


def _shown(asked: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in asked.items() if value != "None")
