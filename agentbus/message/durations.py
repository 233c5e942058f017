"""Durations and points in time as people write them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

from agentbus.errors import InvalidValue

#: What a duration may be given as: ``"5m"``, ``"1h30m"``, seconds, or a timedelta.
Duration = str | int | float | timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+")
#: Ten years: anything longer is a unit mistake (milliseconds given as seconds).
_LONGEST_SECONDS = 10 * 365 * 86400.0


def seconds(value: Duration, field: str) -> float:
    """Return a duration in seconds.

    ``field`` is named in the `InvalidValue` raised for anything that is not a finite, non-negative
    duration of at most ten years.
    """
    result = _parse(value, field)
    if not math.isfinite(result) or result < 0:
        raise InvalidValue(field, f"must be a finite duration of zero or more, not {value!r}")
    if result > _LONGEST_SECONDS:
        raise InvalidValue(field, f"{value!r} is longer than ten years; numbers are seconds")
    return result


def _parse(value: Duration, field: str) -> float:
    if isinstance(value, bool):
        raise InvalidValue(field, 'must be a duration such as "5m", seconds or a timedelta, not a bool')
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        text = value.strip().lower()
        if _WHOLE.fullmatch(text):
            return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    raise InvalidValue(field, f'must be a duration such as "500ms", "5s", "10m", "1h30m", not {value!r}')


def is_ttl(value: object) -> TypeGuard[float]:
    """Return whether a value of an envelope is a time to live in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= _LONGEST_SECONDS


def milliseconds(value: Duration, field: str) -> int:
    """Return a duration in whole milliseconds, at least 1 for anything above zero."""
    exact = seconds(value, field) * 1000
    return max(1, round(exact)) if exact > 0 else 0


def exact(whole_milliseconds: int) -> str:
    """Return a duration exactly, as it can be given: ``1h30m``, ``1s500ms``, ``0s``."""
    left, parts = whole_milliseconds, ""
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")):
        number, left = divmod(left, size)
        parts += f"{number}{unit}" if number else ""
    return parts or "0s"


def instant_milliseconds(value: datetime | str, field: str) -> int:
    """Return a point in time as Unix milliseconds, cut off; it must name its time zone (RFC 3339).

    Cut off as the server's clock is: rounded up, it would lie after what was stored at that very moment.
    """
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment.tzinfo is None:
            raise InvalidValue(field, f"{value!r} has no time zone; write it as 2026-12-31T23:59:59Z")
        # Cut, not rounded: servers name the millisecond that a moment lies in, and not the next one.
        return (moment - _EPOCH) // _MILLISECOND
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, InvalidValue):
            raise
        raise InvalidValue(field, f"must be a time such as 2026-12-31T23:59:59Z, not {value!r}") from error


def readable(duration_seconds: float) -> str:
    """Return a duration for people: ``320ms``, ``4.2s``, ``3m 20s``, ``2h 5m``."""
    if duration_seconds < 0.9995:
        return f"{duration_seconds * 1000:.0f}ms"
    if duration_seconds < 60:
        return f"{duration_seconds:.1f}s"
    whole = int(duration_seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit} {rest}{small_unit}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"
