"""The status of the bus as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from agentbus.cli.output import Output, age, count, moment, new_table, plural
from agentbus.cli.session import OK, open_broker, settings_with
from agentbus.cli.watching import show
from agentbus.message.topics import short_address
from agentbus.status.reading import last_published, read_status
from agentbus.status.values import AddressStatus, BusStatus, ChannelStatus, Totals

_WATCH_INTERVAL = 2.0
#: What has waited for longer than this, in ms, is worth a colour; ten times that another.
_LONG_MS, _TOO_LONG_MS = 60_000, 600_000
#: Columns of a terminal from which on rates are shown, and those that the name of an inbox gets at least.
_WIDE, _NAME = 72, 8


async def show_status(*, watch: bool, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show the status, once or again and again."""
    space = settings_with(prefix).prefix
    output = Output(as_json)
    async with open_broker(url) as broker:
        last = await last_published(broker, space)

        async def look(width: int) -> tuple[Mapping[str, Any], RenderableType]:
            nonlocal last
            last = await read_status(broker, space, last)
            return last.to_record(), render(last, width)

        await show(look, output, every=_WATCH_INTERVAL if watch else None)
    return OK


def render(status: BusStatus, width: int = 80) -> RenderableType:
    """Return a status for people, for a terminal of so many columns."""
    parts: list[RenderableType] = [_headline(status)]
    if status.addresses:
        parts.append(_inboxes(status, width))
    else:
        parts.append(Text("\nno inbox is in use yet; send something: agentbus pub agent.reviewer.task '{}'"))
    if status.channels:
        parts.append(_channels(status.channels, status.channel_count))
    parts += _problems(status.problems)
    return Group(*parts)


def _headline(status: BusStatus) -> Text:
    text = Text.assemble((moment(status.at_ms), "dim"))
    server = status.server
    if server is not None:
        memory = f"{_megabytes(server.used_memory)} MB"
        if server.max_memory:
            memory += f" of {_megabytes(server.max_memory)} MB"
        clients = plural(server.clients, "client")
        text.append(f"  {server.kind} {server.version}, {memory}, {clients}", "default")
    if status.workers is not None:
        text.append(f"  {plural(status.workers, 'worker')}", "default" if status.workers else "yellow")
    return text


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f}"


def _inboxes(status: BusStatus, width: int) -> RenderableType:
    # A terminal may have eighty characters: what would be empty is left out, and lanes go below the name.
    rates = status.total.accepted_rate is not None and width >= _WIDE
    columns = [
        "inbox",
        ">consumers" if width >= _WIDE else ">served",
        ">waiting" if width >= _WIDE else ">wait",
        ">oldest",
        ">held",
        ">due",
    ]
    table = new_table("", [*columns, ">dead"] + [">in/s", ">out/s"] * rates)
    table.title, table.padding = None, (0, 1, 0, 0)
    # Numbers without a name say nothing.
    table.columns[0].min_width = _NAME
    for each in status.addresses:
        waiting = ("~" if each.estimated else "") + count(each.waiting)
        table.add_row(
            _name(each), _consumers(each), waiting, _oldest(each.oldest_ms), count(each.in_flight),
            count(each.due), _dead(each.dead),
            *((_rate(each.accepted_rate), _rate(each.processed_rate)) if rates else ()),
        )  # fmt: skip
    table.add_section()
    if status.rest.addresses:
        table.add_row(*_sums(f"{status.rest.addresses:,} more", status.rest, rates), style="dim")
    table.add_row(*_sums("all", status.total, rates), style="bold")
    return table


def _sums(name: str, totals: Totals, rates: bool) -> tuple[str | Text, ...]:
    sums = (
        name, count(totals.consumers), count(totals.waiting), _oldest(totals.oldest_ms),
        count(totals.in_flight), count(totals.due), _dead(totals.dead),
    )  # fmt: skip
    return (*sums, _rate(totals.accepted_rate), _rate(totals.processed_rate)) if rates else sums


def _consumers(each: AddressStatus) -> Text:
    unserved = not each.consumers and (each.waiting or each.due)
    return Text("nobody" if unserved else count(each.consumers), "yellow" if unserved else "")


def _name(each: AddressStatus) -> Text:
    """Return the bare name, and the lanes when it is not only the usual one."""
    text = Text(short_address(each.address))
    if not set(each.depths) <= {"normal"}:
        shown = [(name, "?" if depth is None else f"{depth:,}") for name, depth in each.depths.items()]
        text.append("\n  " + ", ".join(f"{depth} {name}" for name, depth in shown), "dim")
    return text


def _oldest(oldest_ms: int | None) -> Text:
    if oldest_ms is None:
        return Text("")
    colour = "red" if oldest_ms >= _TOO_LONG_MS else "yellow" if oldest_ms >= _LONG_MS else ""
    return Text(age(oldest_ms), colour)


def _dead(number: int) -> Text:
    return Text(count(number), "red" if number else "")


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    if 0 < rate < 0.1:
        return "<0.1"
    return "·" if rate == 0 else f"{rate:,.1f}" if rate < 100 else f"{rate:,.0f}"


def _channels(channels: tuple[ChannelStatus, ...], of: int) -> RenderableType:
    title = "channels" if len(channels) == of else f"channels, the latest {len(channels)} of {of:,}"
    table = new_table(title, ["channel", ">in its log", ">subscribers", ">in/s", "last message"])
    for each in channels:
        last = moment(int(each.last_entry_id.partition("-")[0])) if each.length else ""
        table.add_row(
            each.address, count(each.length), count(each.subscribers), _rate(each.accepted_rate), last
        )
    return table


def _problems(problems: Mapping[str, str]) -> list[RenderableType]:
    return [
        Text(f"{address} cannot be read: {problem}; `agentbus doctor` tells what to do", "red")
        for address, problem in problems.items()
    ]
