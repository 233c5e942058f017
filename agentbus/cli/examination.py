"""Examines a server and what is on it, finding by finding, and tells what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from agentbus.broker.connection import Broker, masked
from agentbus.broker.repair import LaneRepair, repair_lanes
from agentbus.cli.findings import BAD, OK_, WARN, Finding
from agentbus.cli.findings_addresses import examine_addresses
from agentbus.cli.findings_server import examine_server
from agentbus.cli.findings_services import (
    examine_archive,
    examine_owed,
    examine_policies,
    examine_workers,
)
from agentbus.cli.output import Output, new_table, plural
from agentbus.cli.session import (
    FAILURE,
    OK,
    UNAVAILABLE,
    explain,
    find_url,
    inbox_of,
    open_broker,
    settings_with,
)
from agentbus.errors import BrokerUnavailable

_COLOURS = {OK_: "green", WARN: "yellow", BAD: "bold red"}


async def examine(*, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Examine everything; returns 1 when anything is bad, 4 when the server cannot be reached."""
    space = settings_with(prefix).prefix
    output = Output(as_json)
    place = masked(await find_url(url))
    try:
        async with open_broker(url) as broker:
            findings = await _findings(broker, space, place)
    except BrokerUnavailable as error:
        _show([Finding("server", BAD, f"{place} cannot be reached", explain(error))], output)
        return UNAVAILABLE
    _show(findings, output)
    return FAILURE if any(finding.status == BAD for finding in findings) else OK


async def _findings(broker: Broker, prefix: str, place: str) -> list[Finding]:
    return [
        *await examine_server(broker, prefix, place),
        *await examine_workers(broker, prefix),
        *await examine_archive(broker, prefix),
        *await examine_policies(broker, prefix),
        *await examine_owed(broker, prefix),
        *await examine_addresses(broker, prefix),
    ]


def _show(findings: Iterable[Finding], output: Output) -> None:
    found = list(findings)
    if output.json:
        for finding in found:
            output.record(asdict(finding))
        return
    from rich.text import Text

    table = new_table("", ["", "what", "finding"])
    table.title = None
    for finding in found:
        text = Text(finding.detail)
        if finding.advice:
            text.append(f"\n→ {finding.advice}", "dim" if finding.status == OK_ else _COLOURS[finding.status])
        table.add_row(Text(finding.status, _COLOURS[finding.status]), finding.subject, text)
    output.table(table)
    bad, warned = (sum(finding.status == status for finding in found) for status in (BAD, WARN))
    if bad:
        output.text(f"{plural(bad, 'thing')} to repair, {plural(warned, 'warning')}", "bold red")
    else:
        output.text(f"nothing is broken, {plural(warned, 'warning')}", "yellow" if warned else "green")


# --- repair ---


async def repair_inbox(name: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Repair the lanes of one inbox."""
    address = inbox_of(name)
    space = settings_with(prefix).prefix
    output = Output(as_json)
    async with open_broker(url) as broker:
        repairs = await repair_lanes(broker, space, address)
    if output.json:
        for repair in repairs:
            output.record({"address": address, **asdict(repair)})
    else:
        told = [_told(repair) for repair in repairs if repair.result != "healthy"]
        output.text("\n".join(told) or f"{address} has no lane to repair")
    return OK if all(repair.result in ("healthy", "repaired") for repair in repairs) else FAILURE


def _told(repair: LaneRepair) -> str:
    if repair.result == "repaired":
        return (
            f"{repair.stream}: repaired, {plural(repair.entries, 'waiting message')} kept, "
            f"{plural(repair.dropped, 'entry')} of history dropped".replace("entrys", "entries")
        )
    if repair.result == "held":
        return (
            f"{repair.stream}: left alone, {plural(repair.entries, 'message')} in flight; stop the agents of "
            "this inbox or wait until they are done, and repeat"
        )
    if repair.result == "many":
        return f"{repair.stream}: left alone, too many wait; let the agents work them off, and repeat"
    return f"{repair.stream}: left alone, an entry in it has too many fields to be copied; delete that one"
