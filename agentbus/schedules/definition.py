"""What is stored of a schedule, and the message that one of its ticks sends."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from agentbus.errors import InvalidValue
from agentbus.schedules.misfire import Calendar, Misfire
from agentbus.schedules.spec import Spec, parse_spec, shown
from agentbus.schedules.template import Values, filled_body
from agentbus.schedules.zones import time_zone

#: Of the envelope, what each tick makes anew.
_OF_THE_TICK = ("message_id", "timestamp")


@dataclass(frozen=True, slots=True)
class Definition:
    """A schedule without what changes; times in Unix ms."""

    topic: str
    schedule: str
    timezone: str
    owner: str | None
    created_at: int
    expires_at: int | None
    misfire: str
    grace_ms: int
    #: Index into `policy.PRIORITIES`.
    lane: int
    #: The envelope of its messages, with placeholders and without what each tick makes anew.
    message: dict[str, Any]

    def to_json(self) -> bytes:
        """Return what is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Definition:
        """Return what was stored; raises `InvalidValue` for what somebody wrote by hand and is none."""
        try:
            fields = orjson.loads(text)
            definition = cls(**{name: fields[name] for name in cls.__slots__})
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidValue("schedules", f"holds what is no schedule: {error!r}") from error
        if not isinstance(definition.message, dict) or not isinstance(definition.created_at, int):
            raise InvalidValue("schedules", "holds what is no schedule: message or created_at")
        return definition

    def spec(self) -> Spec:
        """Return when it ticks."""
        return parse_spec(self.schedule, time_zone(self.timezone), self.created_at)

    def calendar(self) -> Calendar:
        """Return when it ticks, until when, and what it does about missed ticks."""
        return Calendar(self.spec(), self.expires_at, Misfire.parse(self.misfire), self.grace_ms)

    @property
    def ttl_ms(self) -> int | None:
        """How long after its tick a message is worth handling."""
        ttl = self.message.get("ttl")
        return None if ttl is None else max(1, round(ttl * 1000))

    def is_same(self, other: Definition) -> bool:
        """Whether two definitions differ in nothing but when they were made."""
        mine, theirs = asdict(self), asdict(other)
        return {**mine, "created_at": 0} == {**theirs, "created_at": 0}

    def message_at(self, schedule_id: str, tick_ms: int, number: int) -> bytes:
        """Return the message of one tick as JSON text; ``number`` counts the ticks from 1.

        Its id follows from schedule and tick: whoever sees a tick twice (in a copy, in an archive) can tell.
        """
        values: Values = {"tick_time": shown(tick_ms), "tick_number": number, "schedule_id": schedule_id}
        message_id = uuid.uuid5(uuid.NAMESPACE_URL, f"agentbus:{schedule_id}/{self.created_at}/{tick_ms}")
        message = {
            **self.message,
            "message_id": str(message_id),
            "timestamp": datetime.now(UTC),
            "body": filled_body(self.message.get("body") or {}, values),
        }
        return orjson.dumps(message, option=orjson.OPT_UTC_Z)


def template_of(envelope: bytes) -> dict[str, Any]:
    """Return what is stored of a composed envelope."""
    message: dict[str, Any] = orjson.loads(envelope)
    return {name: value for name, value in message.items() if name not in _OF_THE_TICK}
