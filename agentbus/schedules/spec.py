"""When something recurs: a cron expression, an interval, or one point in time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

from agentbus.errors import InvalidValue
from agentbus.message.durations import instant_milliseconds, milliseconds
from agentbus.schedules.cron import Cron

#: Shorter than this is no schedule but a loop.
_SHORTEST_MS = 1_000
_KINDS = (
    '"30 2 * * *" (cron: minute, hour, day of month, month, day of week), "interval:60" (seconds; also '
    '"interval:5m") or "at:2026-12-31T23:59:59Z"'
)


class Spec(Protocol):
    """When the ticks of a schedule are."""

    def next_after(self, moment_ms: int) -> int | None:
        """Return the first tick after a moment, both in Unix ms; None when there is none."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Tick number n is n intervals after the creation, however late the one before it was sent."""

    created_ms: int
    every_ms: int

    def next_after(self, moment_ms: int) -> int | None:
        """Return the first tick after a moment, both in Unix ms."""
        number = max(0, moment_ms - self.created_ms) // self.every_ms + 1
        return self.created_ms + number * self.every_ms


@dataclass(frozen=True, slots=True)
class At:
    """One tick."""

    at_ms: int

    def next_after(self, moment_ms: int) -> int | None:
        """Return the tick if it is after a moment, both in Unix ms."""
        return self.at_ms if self.at_ms > moment_ms else None


def parse_spec(text: str, zone: ZoneInfo, created_ms: int) -> Spec:
    """Return when a schedule ticks; raises `InvalidValue` that says what is wrong with ``text``."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidValue("schedule", f"must be {_KINDS}, not {text!r}")
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        return Cron(text, zone)
    if kind == "interval":
        return _interval(rest, created_ms)
    if kind == "at":
        return At(instant_milliseconds(rest, "schedule"))
    raise InvalidValue("schedule", f"{text!r} begins with {kind!r}; a schedule is {_KINDS}")


def first_tick(spec: Spec, now_ms: int, expires_ms: int | None) -> int:
    """Return the first tick after now; raises `InvalidValue` when there is none."""
    if isinstance(spec, At) and spec.at_ms <= now_ms:
        raise InvalidValue("schedule", f"at:{shown(spec.at_ms)} is in the past; it is {shown(now_ms)} now")
    if expires_ms is not None and expires_ms <= now_ms:
        raise InvalidValue("expires_at", f"{shown(expires_ms)} is in the past; it is {shown(now_ms)} now")
    first = spec.next_after(now_ms)
    if first is None:
        raise InvalidValue("schedule", "never happens: no date of the next ten years matches it")
    if expires_ms is not None and first > expires_ms:
        raise InvalidValue(
            "expires_at", f"{shown(expires_ms)} is before the first tick, which would be at {shown(first)}"
        )
    return first


def next_tick(spec: Spec, moment_ms: int, expires_ms: int | None) -> int | None:
    """Return the first tick after a moment that is not after the expiry."""
    found = spec.next_after(moment_ms)
    return None if found is None or (expires_ms is not None and found > expires_ms) else found


def upcoming(spec: Spec, moment_ms: int, expires_ms: int | None, most: int) -> list[int]:
    """Return up to ``most`` ticks after a moment."""
    ticks: list[int] = []
    while len(ticks) < most:
        found = next_tick(spec, ticks[-1] if ticks else moment_ms, expires_ms)
        if found is None:
            break
        ticks.append(found)
    return ticks


def shown(moment_ms: int) -> str:
    """Return a point in time in UTC: ``2026-12-31T23:59:59Z``, with milliseconds where there are any."""
    precision = "milliseconds" if moment_ms % 1000 else "seconds"
    text = datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec=precision)
    return text.replace("+00:00", "Z")


def _interval(text: str, created_ms: int) -> Interval:
    try:
        every_ms = milliseconds(float(text) if _is_number(text) else text, "schedule")
    except InvalidValue as error:
        raise InvalidValue("schedule", f"in 'interval:{text}', {error.problem}") from None
    if every_ms < _SHORTEST_MS:
        raise InvalidValue("schedule", f"'interval:{text}' is too short; an interval is a second or more")
    return Interval(created_ms, every_ms)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal() and text.isascii()
