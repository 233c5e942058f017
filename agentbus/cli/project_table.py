"""Deletes a project for ``agentbus project rm``, and shows what was removed where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentbus.cli.asking import ask
from agentbus.cli.output import Output, count, new_table, plural
from agentbus.cli.session import FAILURE, NOT_FOUND, OK, open_bus, say
from agentbus.projects import ProjectDeleted

if TYPE_CHECKING:
    from agentbus.bus import Bus

_COLUMNS = ["address", ">waiting", ">due", ">dead", ">ended", ">logged", ">schedules", ">owed", ">left"]


@dataclass(frozen=True, slots=True)
class RemovalRequest:
    """What the command line asked for."""

    project: str
    reason: str
    dry_run: bool
    keep_archive: bool
    #: Whether nobody is to be asked.
    sure: bool
    sender: str | None


async def remove_project(asked: RemovalRequest, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Delete a project, or show what would go."""
    output = Output(as_json)
    async with open_bus(url, prefix, asked.sender) as bus:
        if not asked.dry_run and not asked.sure:
            _show(await _delete(bus, asked, dry_run=True), Output())
            ask(f"delete project {asked.project}?", "nothing was deleted")
        done = await _delete(bus, asked, dry_run=asked.dry_run)
    if output.json:
        output.record(done.to_record())
    else:
        _show(done, output)
    for address, why in done.refused.items():
        say(f"note: {address} could not be searched: {why}")
    if not done.places and not done.archive and not done.refused:
        say(f"nothing of project {asked.project} is known at {plural(done.searched, 'address')}")
        return NOT_FOUND
    if not done.complete and not asked.dry_run:
        say("something is left that runs or stands behind others: delete again when it has ended")
        return FAILURE
    return OK


async def _delete(bus: Bus, asked: RemovalRequest, *, dry_run: bool) -> ProjectDeleted:
    return await bus.delete_project(
        asked.project, reason=asked.reason, dry_run=dry_run, keep_archive=asked.keep_archive
    )


def _show(done: ProjectDeleted, output: Output) -> None:
    if output.json:
        return
    verb = "would be removed" if done.dry_run else "removed"
    if done.places:
        table = new_table(f"project {done.project}: {verb}", _COLUMNS)
        for place in done.places:
            numbers = (
                place.waiting, place.due, place.dead, place.ended, place.logged, place.schedules, place.owed,
            )  # fmt: skip
            left = place.left_in_flight + place.left_waiting
            table.add_row(place.address, *map(count, (*numbers, left)))
        output.table(table)
    if done.archive is not None:
        output.text(f"{verb} from the archive: {plural(done.archive, 'row')}")
