"""Cron expressions on the clock of a time zone. The only module that knows croniter.

croniter only says which wall-clock times match. What the two nights of clock change do to them is decided
here, by the rule of Debian's cron: an expression whose minute and hour both begin without ``*`` names times
of day, and each of them happens once: one that is skipped, when the clock jumps; one that comes twice, the
first time. Any other expression is an interval, and goes by the clock as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, CroniterError, croniter

from agentbus.errors import InvalidValue

#: From one 29 February to the next it can be eight years; what has no match in ten never has one.
_MOST_YEARS = 10
#: No clock change repeats or skips more than this of a wall clock that runs on by itself.
_NEAR = timedelta(hours=3)
_SECOND = timedelta(seconds=1)

_NUMBERS = r"[\d*,/-]+"
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DAYS = "sun|mon|tue|wed|thu|fri|sat"
#: The fields and what may stand in them. Not everything that croniter takes: `R` is another time each time
#: it is read, `H` needs a seed, and five schedulers would disagree.
_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("minute", _NUMBERS, "0-59"),
    ("hour", _NUMBERS, "0-23"),
    ("day of month", r"(?:[\d*,/?-]|l)+", "1-31 or L"),
    ("month", rf"(?:[\d*,/-]|{_MONTHS})+", "1-12 or jan-dec"),
    ("day of week", rf"(?:[\d*,/?#-]|l|{_DAYS})+", "0-7 or sun-sat"),
)
_ALIASES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip


def check_expression(text: str) -> str:
    """Return a cron expression with single spaces; raises `InvalidValue` that names the part at fault."""
    parts = text.split()
    if text.strip() in _ALIASES:
        raise InvalidValue("schedule", f"{text!r} is written as {_ALIASES[text.strip()]!r} here")
    if len(parts) != len(_FIELDS):
        raise InvalidValue(
            "schedule",
            f"{text!r} has {len(parts)} fields; a cron expression has five: minute, hour, day of month, "
            "month, day of week"
            + ("; for seconds use interval:<seconds>" if len(parts) > len(_FIELDS) else ""),
        )
    for position, (part, (name, pattern, range_of)) in enumerate(zip(parts, _FIELDS, strict=True)):
        alone = ["*"] * len(_FIELDS)
        alone[position] = part
        if not re.fullmatch(pattern, part.lower()) or not _is_readable(" ".join(alone)):
            raise InvalidValue(
                "schedule", f"in {text!r} the {name} {part!r} is none; it is {range_of}, *, a-b, a,b or */n"
            )
    return " ".join(parts)


def _is_readable(expression: str) -> bool:
    try:
        croniter.expand(expression)
    except CroniterError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields, and the zone whose wall clock they speak of."""

    expression: str
    zone: ZoneInfo
    _matcher: croniter = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked = check_expression(self.expression)
        object.__setattr__(self, "expression", checked)
        matcher = croniter(
            checked, datetime(2000, 1, 1, tzinfo=UTC), ret_type=datetime,
            max_years_between_matches=_MOST_YEARS,
        )  # fmt: skip
        object.__setattr__(self, "_matcher", matcher)

    @property
    def names_times(self) -> bool:
        """Whether it names times of day, each of which happens once, and is no interval."""
        minute, hour, *_ = self.expression.split()
        return not minute.startswith("*") and not hour.startswith("*")

    def next_after(self, moment_ms: int) -> int | None:
        """Return the first tick after a moment, both in Unix ms; None when there is none in ten years."""
        moment = datetime.fromtimestamp(moment_ms // 1000, UTC)
        try:
            found = self._next_time(moment) if self.names_times else self._next_step(moment)
        except (CroniterBadDateError, OverflowError):
            return None
        return round(found.timestamp() * 1000)

    def _next_time(self, moment: datetime) -> datetime:
        wall = self._wall(moment)
        while True:
            wall = self._next_match(wall)
            found = self._first_instant(wall)
            # In the second run of a repeated hour, what matches has happened in the first.
            if found > moment:
                return found

    def _next_step(self, moment: datetime) -> datetime:
        offset = self._offset(moment)
        wall = self._next_match(self._wall(moment))
        if self._offset(moment + _NEAR) == offset:
            return wall.replace(tzinfo=UTC) - offset if self._is_near(wall, moment) else self._existing(wall)
        change = self._change(moment, moment + _NEAR)
        before = wall.replace(tzinfo=UTC) - offset
        if before < change:
            return before
        # The wall clock goes on somewhere else, perhaps where it has been before.
        wall = self._next_match(self._wall(change) - _SECOND)
        if self._is_near(wall, change):
            return wall.replace(tzinfo=UTC) - self._offset(change)
        return self._existing(wall)

    def _is_near(self, wall: datetime, moment: datetime) -> bool:
        return wall.replace(tzinfo=UTC) - self._offset(moment) <= moment + _NEAR

    def _existing(self, wall: datetime) -> datetime:
        """Return the first instant of the first match, from ``wall`` on, that no clock change skips."""
        while True:
            found = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
            if self._wall(found) == wall:
                return found
            wall = self._next_match(wall)

    def _first_instant(self, wall: datetime) -> datetime:
        """Return when a wall-clock time comes, the first time; when it is skipped, the end of the gap."""
        found = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if self._wall(found) == wall:
            return found
        return self._change(wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC), found)

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the first second, between two instants, with the offset of the second one."""
        offset = self._offset(after)
        early, late = int(before.timestamp()), int(after.timestamp())
        while late - early > 1:
            middle = (early + late) // 2
            if self._offset(datetime.fromtimestamp(middle, UTC)) == offset:
                late = middle
            else:
                early = middle
        return datetime.fromtimestamp(late, UTC)

    def _next_match(self, wall: datetime) -> datetime:
        # As if the wall clock were UTC: there is no clock change in it for croniter to have a view of.
        start = wall.replace(tzinfo=UTC)
        found: datetime = self._matcher.get_next(datetime, start_time=start)
        return found.replace(tzinfo=None)

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self.zone).utcoffset()
        assert offset is not None
        return offset
