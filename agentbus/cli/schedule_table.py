"""What ``agentbus schedule`` does and prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from agentbus.cli.output import Output, age, count, new_table
from agentbus.cli.session import open_bus
from agentbus.schedules.schedule import Schedule
from agentbus.schedules.schedules import ScheduleOptions
from agentbus.schedules.spec import first_tick, parse_spec, shown, upcoming
from agentbus.schedules.zones import time_zone

_COLOURS = {"active": "default", "paused": "yellow", "ended": "dim"}
_COLUMNS = ("id", "schedule", "zone", "state", ">next", ">last", ">sent", ">missed", "owner")


@dataclass(frozen=True, slots=True)
class Request:
    """One ``agentbus schedule add``."""

    topic: str
    body: Any
    schedule: str
    timezone: str
    expires_at: str | None
    misfire: str
    options: dict[str, Any]


async def add_one(
    request: Request, *, sender: str | None, url: str | None, prefix: str | None, as_json: bool
) -> None:
    """Add a schedule and show it."""
    async with open_bus(url, prefix, sender) as bus:
        schedule = await bus.schedules.add(
            request.topic,
            request.body,
            request.schedule,
            timezone=request.timezone,
            expires_at=request.expires_at,
            misfire=request.misfire,
            **cast("ScheduleOptions", request.options),
        )
    _print_one(schedule, Output(as_json))


async def show_all(address: str | None, *, url: str | None, prefix: str | None, as_json: bool) -> None:
    """List schedules."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        schedules = await bus.schedules.list(address)
    if output.json:
        for schedule in schedules:
            output.record(schedule.to_record())
    elif schedules:
        output.table(_table(schedules))
    else:
        output.text(f"no schedules{f' of {address}' if address else ''}")


async def show_one(schedule_id: str, *, url: str | None, prefix: str | None, as_json: bool) -> None:
    """Show one schedule."""
    async with open_bus(url, prefix) as bus:
        schedule = await bus.schedules.get(schedule_id)
    _print_one(schedule, Output(as_json))


async def change(verb: str, schedule_id: str, *, url: str | None, prefix: str | None, as_json: bool) -> None:
    """Pause, resume or cancel one, and say what became of it."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        changed = await getattr(bus.schedules, verb)(schedule_id)
    if changed is not None:
        _print_one(changed, output)
    elif output.json:
        output.record({"id": schedule_id, "state": "removed"})
    else:
        output.text(f"{schedule_id} is removed")


async def show_next(
    what: str, most: int, timezone: str, *, url: str | None, prefix: str | None, as_json: bool
) -> None:
    """Show the next ticks of a schedule, by its id or as it could be added."""
    if " " in what or what.startswith(("at:", "interval:")) or ":" not in what:
        now_ms = int(time.time() * 1000)
        zone = time_zone(timezone)
        spec = parse_spec(what, zone, now_ms)
        first_tick(spec, now_ms, None)
        ticks = upcoming(spec, now_ms, None, most)
    else:
        async with open_bus(url, prefix) as bus:
            zone = time_zone((await bus.schedules.get(what)).timezone)
            ticks = [round(tick.timestamp() * 1000) for tick in await bus.schedules.next_ticks(what, most)]
    output = Output(as_json)
    rows = [(tick, datetime.fromtimestamp(tick / 1000, zone).isoformat()) for tick in ticks]
    if output.json:
        for tick, local in rows:
            output.record({"tick": shown(tick), "local": local})
        return
    table = new_table(what, (zone.key, "UTC", ">in"))
    for tick, local in rows:
        table.add_row(local, shown(tick), age(tick - int(time.time() * 1000)))
    output.table(table)


def _print_one(schedule: Schedule, output: Output) -> None:
    record = schedule.to_record()
    if output.json:
        output.record(record)
        return
    width = max(map(len, record))
    for name, value in record.items():
        if value not in (None, {}):
            output.text(f"{name:<{width}}  {value}", _COLOURS[schedule.state] if name == "state" else None)


def _table(schedules: Sequence[Schedule]) -> Any:
    table = new_table("schedules", _COLUMNS)
    # An id in two lines cannot be copied.
    table.columns[0].min_width = max(len(schedule.id) for schedule in schedules)
    now = time.time()
    for schedule in schedules:
        following, last = schedule.next_send_at, schedule.last_sent_at
        table.add_row(
            schedule.id,
            schedule.schedule,
            schedule.timezone,
            f"[{_COLOURS[schedule.state]}]{schedule.state}[/]",
            "" if following is None else f"in {age(round((following.timestamp() - now) * 1000))}",
            "" if last is None else f"{age(round((now - last.timestamp()) * 1000))} ago",
            count(schedule.sent),
            count(schedule.missed),
            schedule.owner or "",
        )
    return table
