"""When things recur: intervals, single times, expiry, and what is refused."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from agentbus.errors import InvalidValue
from agentbus.schedules.spec import At, Interval, first_tick, next_tick, parse_spec, shown, upcoming

UTC = ZoneInfo("UTC")
NOW = round(datetime.fromisoformat("2026-11-21T00:00:00.250Z").timestamp() * 1000)


def test_an_interval_counts_from_its_creation_however_late_the_last_tick_was() -> None:
    spec = parse_spec("interval:60", UTC, NOW)
    assert spec == Interval(NOW, 60_000)
    assert spec.next_after(NOW) == NOW + 60_000
    assert spec.next_after(NOW + 60_000) == NOW + 120_000
    # A scheduler that was late by 59 of 60 seconds does not push the next tick away.
    assert spec.next_after(NOW + 119_000) == NOW + 120_000
    assert spec.next_after(NOW + 7_000_000 * 60_000 + 1) == NOW + 7_000_001 * 60_000


@pytest.mark.parametrize(
    ("text", "every_ms"),
    [
        ("60", 60_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1.5", 1_500),
        ("1", 1_000),
        ("2d", 172_800_000),
    ],
)
def test_an_interval_is_seconds_or_a_duration(text: str, every_ms: int) -> None:
    assert parse_spec(f"interval:{text}", UTC, NOW) == Interval(NOW, every_ms)


def test_a_single_time_ticks_once() -> None:
    spec = parse_spec("at:2026-12-31T23:59:59Z", UTC, NOW)
    assert isinstance(spec, At)
    assert upcoming(spec, NOW, None, 5) == [spec.at_ms]
    assert shown(spec.at_ms) == "2026-12-31T23:59:59Z"
    assert spec.next_after(spec.at_ms) is None


def test_nothing_ticks_after_the_expiry_and_the_tick_at_the_expiry_does() -> None:
    spec = parse_spec("interval:60", UTC, NOW)
    assert upcoming(spec, NOW, NOW + 180_000, 9) == [NOW + 60_000, NOW + 120_000, NOW + 180_000]
    assert next_tick(spec, NOW + 120_000, NOW + 179_999) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("interval:0", "'interval:0' is too short; an interval is a second or more"),
        ("interval:0.5", "too short"),
        ("interval:-5", "in 'interval:-5', must be a duration"),
        ("interval:", "in 'interval:', must be a duration"),
        ("interval:99999999999", "longer than ten years"),
        ("at:tomorrow", "must be a time such as 2026-12-31T23:59:59Z"),
        ("at:2026-12-31T23:59:59", "has no time zone; write it as"),
        ("at:2026-11-20T23:59:59Z", "at:2026-11-20T23:59:59Z is in the past; it is 2026-11-21T00:00:00.250Z"),
        ("every:5m", "begins with 'every'; a schedule is"),
        ("* * * * * *", "has 6 fields; a cron expression has five"),
        ("0 0 30 2 *", "never happens: no date of the next ten years"),
        ("", "must be"),
    ],
)
def test_what_cannot_recur_is_refused_with_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        first_tick(parse_spec(text, UTC, NOW), NOW, None)
    assert refused.value.field == "schedule"
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("expires_ms", "problem"),
    [(NOW - 1, "is in the past; it is"), (NOW + 59_000, "is before the first tick, which would be at")],
)
def test_an_expiry_before_the_first_tick_is_refused(expires_ms: int, problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem) as refused:
        first_tick(parse_spec("interval:60", UTC, NOW), NOW, expires_ms)
    assert refused.value.field == "expires_at"
