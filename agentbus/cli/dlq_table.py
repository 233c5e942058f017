"""Dead letters as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentbus.cli.output import Output, colour_of, moment, new_table, shown_content
from agentbus.cli.session import OK, open_bus, say
from agentbus.dead_letters import DeadLetter, DeadLetterFilter, DeadLetterPage

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_DETAIL = 60
#: Columns from which a table shows why each letter died.
_WIDE = 100
_COLOURS = {"dead": "red", "retrying": "yellow", "parked": "magenta", "resolved": "green"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters of the command line."""

    address: str | None = None
    type: str | None = None
    reason: str | None = None
    sender: str | None = None
    since: str | None = None
    until: str | None = None
    status: Any = "dead"

    def filter(self) -> DeadLetterFilter:
        """Return them checked; raises `InvalidValue` naming the one that is wrong."""
        return DeadLetterFilter(
            self.address, self.type, self.reason, self.sender, self.since, self.until, self.status
        )


async def show_list(
    asked: Asked, limit: int, after: str | None, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Show one page."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        page = await bus.dead_letters.list(
            asked.address, limit=limit, after=after, type=asked.type, reason=asked.reason,
            sender=asked.sender, since=asked.since, until=asked.until, status=asked.status,
        )  # fmt: skip
    if output.json:
        for letter in page:
            output.record(letter.to_record())
    else:
        _print(page, asked, output)
    if page.next is not None:
        say(f"there are more: --after '{page.next}'")
    return OK


def _print(page: DeadLetterPage, asked: Asked, output: Output) -> None:
    if not page:
        output.text(f"no {asked.status} letters: {asked.filter()}", "green")
        return
    late = "comes due" if asked.status in ("retrying", "parked") else "died"
    # An id in two lines cannot be copied: on a narrow terminal the detail gives way, which `show` has.
    wide = output.console.width >= _WIDE
    table = new_table("", ["id", "type", "from", "reason", ">runs", late, *(["detail"] if wide else [])])
    table.columns[0].min_width = max(len(letter.id) for letter in page)
    for letter in page:
        at = letter.next_retry_at or letter.died_at
        table.add_row(
            letter.id, letter.type or "?", letter.sender or "", letter.reason, str(letter.attempts),
            moment(_milliseconds(at)), *([letter.detail[:_LONGEST_DETAIL]] if wide else []),
        )  # fmt: skip
    output.table(table)


async def show_one(id: str, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show one letter."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        letter = await bus.dead_letters.get(id)
    if output.json:
        output.record(letter.to_record())
    else:
        _print_one(letter, output)
    return OK


def _print_one(letter: DeadLetter, output: Output) -> None:
    output.text(f"{letter.id}  {letter.status}", f"bold {_COLOURS[letter.status]}")
    budget = "" if letter.max_retries is None else f" of at most {letter.max_retries}"
    rows = {
        "reason": f"{letter.reason}: {letter.detail}" if letter.detail else letter.reason,
        "message": f"{letter.type or 'none'} {letter.message_id or ''}",
        "from": letter.sender, "session": letter.session_id, "priority": letter.priority,
        "tried again": f"{letter.retry_count}{budget}",
        "handed out again": str(letter.retries) if letter.retries else None,
        "died": _shown(letter.died_at), "next retry": _shown(letter.next_retry_at), "owner": letter.owner,
        "first failure": _failure(letter.first_failure), "last failure": _failure(letter.last_failure),
        "resolved": _shown(letter.resolved_at), "by": letter.resolved_by, "resolution": letter.resolution,
    }  # fmt: skip
    for name, value in rows.items():
        if value:
            output.text(f"  {name:<17}{value}")
    if letter.message is not None:
        output.text(f"  {'body':<17}{shown_content(letter.message)}", colour_of(letter.priority))
    for name, raw in letter.raw.items():
        output.text(f"  {name}: {raw.decode(errors='replace')}", "dim")


def _failure(failure: Mapping[str, Any] | None) -> str | None:
    if failure is None:
        return None
    return f"{failure.get('at', '')} {failure.get('error', json.dumps(dict(failure)))}".strip()


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)


def _shown(at: datetime | None) -> str | None:
    return None if at is None else moment(_milliseconds(at))
