"""Durations and points in time as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import InvalidValue
from agentbus.message.durations import instant_milliseconds, milliseconds, readable, seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [("500ms", 0.5), ("5s", 5), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800), ("1w", 604800),
     (" 5S ", 5), (0, 0), (1.25, 1.25), (timedelta(minutes=2), 120), ("0s", 0)],
)  # fmt: skip
def test_what_people_write_is_understood(value: Any, expected: float) -> None:
    assert seconds(value, "ttl") == pytest.approx(expected)


@pytest.mark.parametrize(
    "value",
    ["", "5", "5 s", "s", "-5s", "5x", "1h 30m", -1, float("nan"), float("inf"), True, None, [],
     timedelta(-1),     "11y", 10 * 366 * 86400, "1h-5m"],
)  # fmt: skip
def test_anything_else_is_refused_by_the_name_of_its_field(value: Any) -> None:
    with pytest.raises(InvalidValue) as raised:
        seconds(value, "delay")
    assert raised.value.field == "delay"


@given(st.floats(min_value=1e-9, max_value=1e8))
def test_no_duration_above_zero_becomes_zero_milliseconds(value: float) -> None:
    assert milliseconds(value, "ttl") >= 1
    assert abs(milliseconds(value, "ttl") - value * 1000) <= 1


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.timezones()))
def test_a_point_in_time_is_the_same_as_text_and_as_datetime(moment: datetime) -> None:
    given_as_text = instant_milliseconds(moment.astimezone(UTC).isoformat(), "at")
    assert given_as_text == instant_milliseconds(moment, "at")
    # The millisecond that it lies in.
    assert -0.01 <= moment.timestamp() * 1000 - given_as_text < 1.01


def test_a_point_in_time_is_cut_off_as_the_servers_clock_is() -> None:
    # Rounded up it would lie behind a message that was stored within the same millisecond.
    assert instant_milliseconds("1970-01-02T00:00:00.007999Z", "start") == 86_400_007


@pytest.mark.parametrize("value", ["2026-12-31T23:59:59", datetime(2026, 1, 1), "tomorrow", 5, None, ""])
def test_a_time_without_zone_or_sense_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue, match="at: "):
        instant_milliseconds(value, "at")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.32, "320ms"), (4.21, "4.2s"), (200, "3m 20s"), (7500, "2h 5m"), (3600, "1h"), (90000, "1d 1h")],
)
def test_durations_read_well(value: float, text: str) -> None:
    assert readable(value) == text
