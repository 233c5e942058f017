"""What commands print: tables for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentbus.message.durations import readable
from agentbus.message.message import Message

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {
    "critical": "bold red",
    "high": "yellow",
    "normal": "default",
    "low": "dim",
    "background": "dim",
    "returned": "magenta",
    "dead": "red",
}


class Output:
    """The standard output of one command."""

    def __init__(self, as_json: bool = False) -> None:
        #: Whether a program reads: JSON was asked for, or this is no terminal.
        self.json = as_json or not sys.stdout.isatty()
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """The terminal; rich honours NO_COLOR and the terminal's abilities."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False, soft_wrap=False)
        return self._console

    def record(self, record: Mapping[str, Any]) -> None:
        """Write one JSON line, at once."""
        sys.stdout.write(json.dumps(record, ensure_ascii=False, default=plain) + "\n")
        sys.stdout.flush()

    def text(self, text: str, style: str | None = None) -> None:
        """Write plain text; nothing in it is taken as markup."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Write a table."""
        self.console.print(table)


def plain(value: Any) -> str:
    """Return what JSON has no form for: a time as RFC 3339 in UTC, anything else as its text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value)


def new_table(title: str, columns: Sequence[str]) -> Table:
    """Return an empty table; a column whose name begins with ``>`` is aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    return table


def colour_of(stream: str) -> str:
    """Return the colour of a lane."""
    return _COLOURS.get(stream, "default")


def count(number: int) -> str:
    """Return a count for people; nothing is a dot, so that what is there stands out."""
    return f"{number:,}" if number else "·"


def age(milliseconds: int | None) -> str:
    """Return a duration for people."""
    return "" if milliseconds is None else readable(max(0, milliseconds) / 1000)


def moment(milliseconds: int | None) -> str:
    """Return a point in time in the local zone."""
    if milliseconds is None:
        return "unknown"
    try:
        at = datetime.fromtimestamp(milliseconds / 1000).astimezone()
    except (OverflowError, ValueError, OSError):
        # A hand-made entry id may claim any time.
        return f"{milliseconds} ms"
    today = at.date() == datetime.now().astimezone().date()
    text = at.strftime("%H:%M:%S.%f" if today else "%Y-%m-%d %H:%M:%S.%f")
    return text[:-3]


def shown_content(message: Message, limit: int | None = None) -> str:
    """Return a message's content on one line."""
    content = message.content
    if isinstance(content, bytes):
        text = f"<{len(content):,} bytes>"
    else:
        text = json.dumps(content, ensure_ascii=False, default=str)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def plural(number: int, noun: str) -> str:
    """Return ``1 message``, ``2 messages``, ``2 addresses``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
