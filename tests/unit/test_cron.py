"""Cron expressions through the nights of clock change, in zones that do it differently."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from agentbus.errors import InvalidValue
from agentbus.schedules.cron import Cron
from agentbus.schedules.zones import time_zone


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _ticks(expression: str, zone: str, start: str, end: str) -> Iterator[int]:
    cron = Cron(expression, ZoneInfo(zone))
    moment: int | None = cron.next_after(_ms(start) - 1)
    while moment is not None and moment < _ms(end):
        yield moment
        following = cron.next_after(moment)
        assert following is None or following > moment
        moment = following


def _walls(expression: str, zone: str, start: str, end: str) -> list[str]:
    """The ticks between two instants as people in the zone read them: wall clock and offset."""
    return [
        datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)).strftime("%H:%M%z")
        for tick in _ticks(expression, zone, start, end)
    ]


# The nights, as (zone, noon before, noon after). Berlin and New York shift by an hour, Lord Howe by half one.
BERLIN_SPRING = ("Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T11:00:00Z")
BERLIN_AUTUMN = ("Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T11:00:00Z")
NEW_YORK_SPRING = ("America/New_York", "2026-03-07T18:00:00Z", "2026-03-08T17:00:00Z")
NEW_YORK_AUTUMN = ("America/New_York", "2026-10-31T18:00:00Z", "2026-11-01T17:00:00Z")
LORD_HOWE_SPRING = ("Australia/Lord_Howe", "2026-10-03T02:00:00Z", "2026-10-04T01:00:00Z")
LORD_HOWE_AUTUMN = ("Australia/Lord_Howe", "2026-04-04T02:00:00Z", "2026-04-05T01:00:00Z")


_NIGHTS = {
    night[0]: (night, other)
    for night, other in (
        (BERLIN_SPRING, BERLIN_AUTUMN),
        (NEW_YORK_SPRING, NEW_YORK_AUTUMN),
        (LORD_HOWE_SPRING, LORD_HOWE_AUTUMN),
    )
}


@pytest.mark.parametrize(
    ("night", "expression", "expected"),
    [
        # A time of day that is skipped happens when the clock jumps, once.
        (BERLIN_SPRING, "30 2 * * *", ["03:00+0200"]),
        (BERLIN_SPRING, "0,30 2 * * *", ["03:00+0200"]),
        (BERLIN_SPRING, "30 2,3 * * *", ["03:00+0200", "03:30+0200"]),
        (BERLIN_SPRING, "0 3 * * *", ["03:00+0200"]),
        (NEW_YORK_SPRING, "30 2 * * *", ["03:00-0400"]),
        (LORD_HOWE_SPRING, "15 2 * * *", ["02:30+1100"]),
        # A time of day that comes twice happens the first time.
        (BERLIN_AUTUMN, "30 2 * * *", ["02:30+0200"]),
        (BERLIN_AUTUMN, "0 2,3 * * *", ["02:00+0200", "03:00+0100"]),
        (NEW_YORK_AUTUMN, "30 1 * * *", ["01:30-0400"]),
        (LORD_HOWE_AUTUMN, "45 1 * * *", ["01:45+1100"]),
        (LORD_HOWE_AUTUMN, "0 2 * * *", ["02:00+1030"]),
        # What begins with * in minute or hour is an interval, and goes by the clock as it stands.
        (BERLIN_SPRING, "30 * * * *", None),
        (BERLIN_SPRING, "*/30 2 * * *", []),
        (BERLIN_AUTUMN, "*/30 2 * * *", ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]),
        (BERLIN_AUTUMN, "15 */2 * * *", None),
        (LORD_HOWE_AUTUMN, "*/15 1 * * *",
         ["01:00+1100", "01:15+1100", "01:30+1100", "01:45+1100", "01:30+1030", "01:45+1030"]),
    ],
)  # fmt: skip
def test_a_night_of_clock_change(
    night: tuple[str, str, str], expression: str, expected: list[str] | None
) -> None:
    walls = _walls(expression, *night)
    if expected is not None:
        assert walls == expected
    elif expression.startswith("30 *"):
        assert len(walls) == 23 and "02:30+0100" not in walls
    else:
        assert [wall for wall in walls if wall.startswith("02")] == ["02:15+0200", "02:15+0100"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_an_interval_keeps_its_distance_through_a_whole_year(zone: str) -> None:
    ticks = list(_ticks("*/30 * * * *", zone, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"))
    assert ticks == list(range(_ms("2026-01-01T00:00:00Z"), _ms("2027-01-01T00:00:00Z"), 1_800_000))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("wall", ["01:30", "01:45", "02:00", "02:15", "02:30", "03:00"])
def test_a_time_of_day_happens_once_on_each_day_of_two_years(zone: str, wall: str) -> None:
    hour, minute = wall.split(":")
    ticks = _ticks(f"{int(minute)} {int(hour)} * * *", zone, "2025-12-31T12:00:00Z", "2027-12-31T12:00:00Z")
    local = [datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)) for tick in ticks]
    days = [moment.date() for moment in local]
    assert len(days) == len(set(days)) == (days[-1] - days[0]).days + 1 >= 729
    odd = [moment for moment in local if moment.strftime("%H:%M") != wall]
    # Only in a gap, which each of these zones has once a year; and there it is at the end of the gap.
    assert len(odd) <= 2
    for moment in odd:
        before = (moment.astimezone(UTC) - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        assert before.utcoffset() != moment.utcoffset()


def _slowly(expression: str, zone: str, start: str, end: str) -> list[int]:
    """Every minute of the zone's clock is asked whether it matches: the definition of an interval."""
    cron = Cron(expression, ZoneInfo(zone))
    found = []
    for minute in range(_ms(start), _ms(end), 60_000):
        wall = datetime.fromtimestamp(minute / 1000, ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        if cron._next_match(wall - timedelta(seconds=1)) == wall:
            found.append(minute)
    return found


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "expression", ["*/7 1-3 * * *", "10 */1 * * sun", "* 2 * * *", "*/45 * * 3,4,10,11 *"]
)
def test_an_interval_is_what_the_wall_clock_shows_minute_by_minute(expression: str, zone: str) -> None:
    for night in _NIGHTS[zone]:
        assert list(_ticks(expression, *night)) == _slowly(expression, *night)


def test_the_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in ("Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", machine)
        time.tzset()
        assert _walls("30 2 * * *", *BERLIN_AUTUMN) == ["02:30+0200"]
    monkeypatch.undo()
    time.tzset()


def test_a_rare_date_is_found_and_an_impossible_one_is_none() -> None:
    utc = ZoneInfo("UTC")
    assert Cron("0 0 29 2 *", utc).next_after(_ms("2096-03-01T00:00:00Z")) == _ms("2104-02-29T00:00:00Z")
    started = time.monotonic()
    assert Cron("0 0 30 2 *", utc).next_after(_ms("2026-01-01T00:00:00Z")) is None
    assert Cron("0 0 31 4,6 *", utc).next_after(_ms("2026-01-01T00:00:00Z")) is None
    assert time.monotonic() - started < 5, "the search is bounded"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("*/10 * * * * *", "has 6 fields; a cron expression has five.*interval:<seconds>"),
        ("* * * *", "has 4 fields"),
        ("60 * * * *", "the minute '60' is none; it is 0-59"),
        ("0 24 * * *", "the hour '24' is none; it is 0-23"),
        ("0 0 32 * *", "the day of month '32'"),
        ("0 0 * foo *", "the month 'foo'"),
        ("0 0 * * 8", "the day of week '8'"),
        ("R R * * *", "the minute 'R'"),
        ("H 0 * * *", "the minute 'H'"),
        ("*/0 * * * *", r"the minute '\*/0'"),
        ("@daily", "is written as '0 0 \\* \\* \\*' here"),
    ],
)
def test_what_is_no_cron_expression_is_refused_with_the_part_at_fault(expression: str, problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem):
        Cron(expression, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("Europe/Berln", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("berlin", "Europe/Berlin"),
        ("CEST", "CET|EST"), ("localtime", "IANA|did you mean"), ("../../etc/passwd", "IANA"),
        ("Lord_Howe", "Australia/Lord_Howe"), ("", "must be"),
    ],
)  # fmt: skip
def test_an_unknown_zone_is_refused_with_one_that_was_perhaps_meant(name: str, suggestion: str) -> None:
    with pytest.raises(InvalidValue, match=suggestion) as refused:
        time_zone(name)
    assert refused.value.field == "timezone"
