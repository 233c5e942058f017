"""The history of an address as a table and as JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from rich.text import Text

from agentbus.cli.output import Output, moment, new_table, shown_content
from agentbus.cli.session import OK, open_broker, say, settings_with
from agentbus.errors import InvalidValue
from agentbus.history.archived import open_archive
from agentbus.history.entry import HistoryEntry, HistoryGap, HistoryPage
from agentbus.history.history import MOST_ENTRIES, History
from agentbus.history.query import HistoryFilters
from agentbus.settings import archive_dsn

_COLOURS = {
    "waiting": "cyan", "in_flight": "yellow", "due": "blue", "dead": "red", "logged": "default",
    "processed": "green", "expired": "yellow", "cancelled": "yellow", "discarded": "red",
    "resolved": "green", "moved": "blue",
}  # fmt: skip
_LONGEST_CONTENT = 60
#: Messages of one page when all are asked for.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class HistoryPlan:
    """What to show."""

    address: str
    filters: HistoryFilters
    #: 0: all pages.
    limit: int
    cursor: str | None

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= MOST_ENTRIES:
            raise InvalidValue("limit", f"must be from 0 (all) to {MOST_ENTRIES:,}, not {self.limit}")


async def show_history(plan: HistoryPlan, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show one page, or all."""
    settings = settings_with(prefix)
    output = Output(as_json)
    dsn = settings.archive or archive_dsn()
    async with open_broker(url) as broker, open_archive(dsn, settings.prefix) as archive:
        history = History(broker, settings.prefix, archive)
        gaps: dict[str, HistoryGap] = {}
        shown, last = 0, None
        async for page in _pages(history, plan):
            _print_page(page, output)
            shown, last = shown + len(page.entries), page
            # With all pages asked for, a page that ended early is followed by the rest.
            gaps |= {gap.kind: gap for gap in page.gaps if plan.limit or gap.kind != "scan"}
    assert last is not None
    _print_end(HistoryPage((), last.next, tuple(gaps.values())), shown, output)
    return OK


async def _pages(history: History, plan: HistoryPlan) -> AsyncIterator[HistoryPage]:
    size = plan.limit or _PAGE
    page = await history.page(plan.address, plan.filters, size, plan.cursor)
    yield page
    while not plan.limit and page.next is not None:
        page = await history.page(plan.address, plan.filters, size, page.next)
        yield page


def _print_page(page: HistoryPage, output: Output) -> None:
    if output.json:
        for entry in page.entries:
            output.record(entry.to_record())
    elif page.entries:
        table = new_table("", ["time", "end", "type", "from", "message", "content"])
        table.title = None
        for entry in page.entries:
            table.add_row(*_row(entry))
        output.table(table)


def _row(entry: HistoryEntry) -> tuple[str | Text, ...]:
    end = entry.outcome or entry.state
    message = entry.message
    what = Text(end.replace("_", " "), _COLOURS.get(end, "default"))
    if message is None:
        return moment(entry.at_ms), what, "", "", entry.entry_id, Text(entry.detail, "dim")
    content = Text(shown_content(message, _LONGEST_CONTENT))
    if entry.detail:
        content.append(f"  {entry.detail}", "dim")
    sender = message.from_agent or ""
    return moment(entry.at_ms), what, message.message_type, sender, message.message_id, content


def _print_end(page: HistoryPage, shown: int, output: Output) -> None:
    if output.json:
        output.record(page.to_record())
    elif not shown:
        output.text("nothing" if page.complete else "nothing was found", "dim")
    for gap in page.gaps:
        say(f"note: not complete: {gap.reason}")
    if page.next is not None:
        say(f"next: --cursor {page.next}")
