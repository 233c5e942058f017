"""Conversations as tables and as JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from agentbus.cli.output import Output, count, moment, new_table, shown_content
from agentbus.cli.session import OK, USAGE, Failure, open_bus, say
from agentbus.errors import InvalidValue
from agentbus.history.entry import HistoryEntry
from agentbus.message.topics import conversation_of, is_conversation
from agentbus.settings import default_agent

if TYPE_CHECKING:
    from agentbus.bus import Bus

_LONGEST_CONTENT = 80


@dataclass(frozen=True, slots=True)
class Looking:
    """Who looks, and where."""

    me: str | None
    url: str | None
    prefix: str | None
    as_json: bool

    @property
    def agent(self) -> str:
        """The agent to act as; raises `Failure` when nobody says."""
        found = self.me or default_agent()
        if found is None:
            raise Failure("direct messages need an agent to act as: --as planner, or AGENTBUS_AGENT", USAGE)
        return found

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """Open a bus in that agent's name."""
        async with open_bus(self.url, self.prefix, self.agent) as bus:
            yield bus


async def show_conversations(looking: Looking) -> int:
    """Show all conversations of an agent."""
    output = Output(looking.as_json)
    async with looking.bus() as bus:
        found = await bus.conversations()
    if output.json:
        for each in found:
            output.record(each.to_record())
        return OK
    if not found:
        output.text(f"{looking.agent} has no conversations", "dim")
        return OK
    table = new_table("", ["with", ">unread", "last", "from", ""])
    table.title = None
    for each in found:
        unread = Text(count(each.unread), "bold" if each.unread else "dim")
        if each.last is None:
            table.add_row(each.other, unread, "·", "", "")
        else:
            at = moment(round(each.last.at.timestamp() * 1000))
            table.add_row(each.other, unread, at, each.last.from_agent or "?", Text(each.last.snippet))
    output.table(table)
    return OK


async def show_conversation(looking: Looking, other: str, limit: int, cursor: str | None) -> int:
    """Show one page of what was said."""
    output = Output(looking.as_json)
    async with looking.bus() as bus:
        page = await bus.conversation(other, limit=limit, cursor=cursor)
    if output.json:
        for entry in page.entries:
            output.record(entry.to_record())
        output.record(page.to_record())
        return OK
    table = new_table("", ["time", "from", "type", "content"])
    table.title = None
    for entry in page.entries:
        table.add_row(moment(entry.at_ms), *_said(entry))
    output.table(table)
    for gap in page.gaps:
        say(f"note: not complete: {gap.reason}")
    if page.next is not None:
        say(f"next: --cursor {page.next}")
    return OK


async def send_direct(
    looking: Looking, to: str, content: Callable[[], object], message_type: str, allow_unknown: bool
) -> int:
    """Say something."""
    output = Output(looking.as_json)
    async with looking.bus() as bus:
        sent = await bus.dm(to, content(), type=message_type, allow_unknown=allow_unknown)
    name = conversation_of(looking.agent, to)
    if output.json:
        output.record({"message_id": sent.message_id, "conversation": name, "to": to})
    else:
        output.text(f"{sent.message_id}  in {name}, and in the inbox of {to}")
    return OK


async def mark_read(looking: Looking, other: str | None, message: str | None) -> int:
    """Mark a conversation or one message as read."""
    if (other is None) == (message is None):
        raise InvalidValue("other", "name an agent, or one message with --message")
    output = Output(looking.as_json)
    what = message or ""
    if other is not None:
        what = other if is_conversation(other) else conversation_of(looking.agent, other)
    async with looking.bus() as bus:
        await bus.mark_read(what)
    if output.json:
        output.record({"read": what})
    else:
        output.text(f"{what} is read")
    return OK


def _said(entry: HistoryEntry) -> tuple[str, str, str]:
    message = entry.message
    if message is None:
        return "", "", entry.detail
    return message.from_agent or "?", message.message_type, shown_content(message, _LONGEST_CONTENT)
