"""Workers as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.text import Text

from agentbus.broker.worker_registry import ABSENT_AFTER_MS, RoleState, Roll, WorkerRegistry, WorkerState
from agentbus.cli.output import Output, age, moment, new_table
from agentbus.cli.session import NOT_FOUND, OK, Failure, open_broker, settings_with

_NONE = """no workers run. Start some:
  - beside the embedded broker: agentbus up
  - anywhere else: agentbus workers run, as many as you like"""
#: A role that is later than this, in ms, is worth a colour.
_LATE_MS = 1_000


async def show_workers(*, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show every worker that is known; raises `Failure` when none lives."""
    output = Output(as_json)
    async with open_broker(url) as broker:
        roll = await WorkerRegistry(broker, settings_with(prefix).prefix).roll()
    found = sorted(
        roll.workers, key=lambda each: (not lives(each, roll), each.host, each.started_at, each.id)
    )
    if output.json:
        for worker in found:
            output.record(record_of(worker, roll))
    else:
        for worker in found:
            _show(worker, roll, output)
    if not any(lives(worker, roll) for worker in found):
        raise Failure(_NONE, NOT_FOUND)
    return OK


def lives(worker: WorkerState, roll: Roll) -> bool:
    """Whether a worker has beaten lately, by the server's clock."""
    return roll.server_ms - worker.seen_at <= ABSENT_AFTER_MS


def record_of(worker: WorkerState, roll: Roll) -> dict[str, Any]:
    """Return a worker as JSON."""
    return {
        **asdict(worker),
        "roles": {name: asdict(state) for name, state in sorted(worker.roles.items())},
        "phase": worker.phase if lives(worker, roll) else "dead",
        "seen_ago_ms": max(0, roll.server_ms - worker.seen_at),
    }


def _show(worker: WorkerState, roll: Roll, output: Output) -> None:
    """Write one worker: a line of its own, for ids are long, and a row for each of its roles."""
    phase = worker.phase if lives(worker, roll) else "dead"
    colour = {"running": "green", "draining": "yellow"}.get(phase, "red")
    about = (
        f"  process {worker.pid} on {worker.host} since {moment(worker.started_at)}, "
        f"seen {age(roll.server_ms - worker.seen_at)} ago"
    )
    output.console.print(Text.assemble((worker.id, "bold"), "  ", (phase, colour), (about, "dim")))
    table = new_table("", ["  role", ">lag", ">steps", "last error"])
    table.title = None
    for name, state in sorted(worker.roles.items()):
        table.add_row(f"  {name}", *_role(state), style="dim" if phase == "dead" else None)
    output.table(table)


def _role(state: RoleState) -> tuple[Any, ...]:
    late = state.lag_ms is not None and state.lag_ms > _LATE_MS
    if state.last_error:
        note = Text(f"{moment(state.error_at)} {state.last_error}", "yellow")
    else:
        note = Text(state.idle, "dim")
    return Text(age(state.lag_ms), "yellow" if late else ""), f"{state.steps:,}", note
