"""What ``agentbus archive`` does and prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentbus.broker.archiving import ArchivedInbox, ArchiveSwitch, archived_address, backlogs_of
from agentbus.broker.backlog import Backlog
from agentbus.broker.inspection.inbox_view import known_addresses
from agentbus.broker.worker_registry import Roll, WorkerRegistry
from agentbus.cli.output import Output, age, count, moment, new_table
from agentbus.cli.session import FAILURE, OK, open_bus, say

if TYPE_CHECKING:
    from agentbus.bus import Bus

#: A worker that was seen within this long may still live.
_LIVES_MS = 10_000


async def show_status(*, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show how far the archive is."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        broker, keys_prefix = bus.rooms.broker, bus.settings.prefix
        since = await ArchiveSwitch(broker, keys_prefix).since_ms()
        found = await _backlogs(bus)
    if output.json:
        for address, backlog in found.items():
            output.record(_record(address, backlog, since))
        return OK
    if since is None:
        output.text("the archive is off", "dim")
        return OK
    output.text(f"the archive is on since {moment(since)}", "green")
    table = new_table("", ["address", ">archived", ">not yet", ">behind", ">missing"])
    for address, backlog in found.items():
        table.add_row(
            address, count(backlog.archived), count(backlog.unarchived),
            age(backlog.lag_ms) if backlog.lag_ms else "·", count(backlog.missing),
        )  # fmt: skip
    output.table(table)
    return OK


async def _backlogs(bus: Bus) -> dict[str, Backlog]:
    broker, prefix = bus.rooms.broker, bus.settings.prefix
    found: dict[str, Backlog] = {}
    for source, look in await backlogs_of(broker, prefix, await known_addresses(broker, prefix)):
        if isinstance(look, Backlog):
            found[source.address] = look
        else:
            say(f"{source.address}: {look}")
    return found


def _record(address: str, backlog: Backlog, since: int | None) -> dict[str, object]:
    return {
        "address": address, "on": since is not None, "archived": backlog.archived,
        "unarchived": backlog.unarchived, "lag_ms": backlog.lag_ms, "missing": backlog.missing,
    }  # fmt: skip


async def turn_off(*, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Turn the archive off, unless somebody would turn it on again."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        broker, keys_prefix = bus.rooms.broker, bus.settings.prefix
        working = _archiving(await WorkerRegistry(broker, keys_prefix).roll())
        if working:
            say(
                f"worker {working[0]} archives, and would turn it on again: stop it, or take the role from it"
            )
            return FAILURE
        await ArchiveSwitch(broker, keys_prefix).turn_off()
        addresses = await _forgive(bus)
    if output.json:
        output.record({"on": False, "addresses": addresses})
    else:
        output.text(f"the archive is off; {addresses} addresses wait for it no more", "green")
    return OK


def _archiving(roll: Roll) -> list[str]:
    return [
        worker.id
        for worker in roll.workers
        if worker.seen_at >= roll.server_ms - _LIVES_MS
        and "archive" in worker.roles
        and not worker.roles["archive"].idle
    ]


async def _forgive(bus: Bus) -> int:
    """What is not archived takes no room any more; returns at how many addresses."""
    broker, prefix = bus.rooms.broker, bus.settings.prefix
    changed = 0
    for address in await known_addresses(broker, prefix):
        source = archived_address(broker, prefix, address)
        if isinstance(source, ArchivedInbox):
            changed += await source.count_unarchived(False)
    return changed
