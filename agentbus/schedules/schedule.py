"""A schedule as its users see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from agentbus.broker.schedules import StoredSchedule
from agentbus.errors import InvalidValue
from agentbus.message.message import Message
from agentbus.message.policy import Priority
from agentbus.message.topics import check_name, parse_address
from agentbus.schedules.definition import Definition
from agentbus.schedules.spec import shown


@dataclass(frozen=True, slots=True)
class Schedule:
    """One recurring message, as it was at one moment. Times are in UTC, by the server's clock."""

    #: ``<address>:<name>``: says where it is, so that nothing is searched.
    id: str
    topic: str
    #: As it was given: ``30 2 * * *``, ``interval:60`` or ``at:2026-12-31T23:59:59Z``.
    schedule: str
    timezone: str
    body: Any
    #: The agent that added it.
    owner: str | None
    #: False while it is paused.
    enabled: bool
    created_at: datetime
    last_sent_at: datetime | None
    #: None while it is paused, and after the last tick.
    next_send_at: datetime | None
    expires_at: datetime | None
    #: When it had its last tick; a day later it is gone.
    ended_at: datetime | None
    #: Messages sent.
    sent: int
    #: Ticks without a message of their own: nobody was there to send it in time.
    missed: int
    misfire: str
    #: Sent with each message.
    metadata: Mapping[str, Any]
    priority: Priority

    @property
    def address(self) -> str:
        """The inbox or channel it sends to."""
        return self.id.rpartition(":")[0]

    @property
    def state(self) -> Literal["active", "paused", "ended"]:
        """What it does now."""
        if self.ended_at is not None:
            return "ended"
        return "active" if self.enabled else "paused"

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        record = {"id": self.id, "address": self.address, "state": self.state, **asdict(self)}
        return {
            name: shown(round(value.timestamp() * 1000)) if isinstance(value, datetime) else value
            for name, value in record.items()
        }


def schedule_of(stored: StoredSchedule) -> Schedule:
    """Return a stored schedule; raises `InvalidValue` for what somebody wrote by hand and is none."""
    definition, state = Definition.from_json(stored.definition), stored.state
    message = Message(definition.message)
    return Schedule(
        id=f"{stored.address}:{stored.id}",
        topic=definition.topic,
        schedule=definition.schedule,
        timezone=definition.timezone,
        body=message.content,
        owner=definition.owner,
        enabled=state.enabled,
        created_at=_moment(definition.created_at),
        last_sent_at=_moment_or_none(state.last_sent_at),
        next_send_at=_moment_or_none(state.next_send_at),
        expires_at=_moment_or_none(definition.expires_at),
        ended_at=_moment_or_none(state.ended_at),
        sent=state.sent,
        missed=state.missed,
        misfire=definition.misfire,
        metadata=message.metadata,
        priority=message.priority,
    )


def split_id(schedule_id: str) -> tuple[str, str]:
    """Return address and name of a schedule's id; raises `InvalidValue` for what is none."""
    address, colon, name = schedule_id.rpartition(":") if isinstance(schedule_id, str) else ("", "", "")
    if not colon or "." not in address:
        raise InvalidValue("id", f"{schedule_id!r} is not a schedule's id such as agent.reviewer:nightly")
    return parse_address(address), check_name(name, "id")


def _moment(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _moment_or_none(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else _moment(time_ms)
