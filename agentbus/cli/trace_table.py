"""The trace of a message as a table and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.found import Place
from agentbus.broker.inspection.inbox_view import known_addresses
from agentbus.broker.inspection.tracing import Progress, Trace, trace_message
from agentbus.cli.conversation_table import show_conversation
from agentbus.cli.output import Output, colour_of, moment, new_table, plural, shown_content
from agentbus.cli.session import NOT_FOUND, OK, Failure, address_of, open_broker, say, settings_with
from agentbus.history.archived import LazyArchive, open_archive
from agentbus.history.conversation import ConversationTrace, trace_conversation
from agentbus.message.message import Message
from agentbus.settings import archive_dsn

_COLOURS = {
    "waiting": "cyan", "returned": "magenta", "in_flight": "yellow", "due": "blue", "dead": "red",
    "ended": "green", "logged": "green",
}  # fmt: skip
_LONGEST_CONTENT = 200


@dataclass(frozen=True, slots=True)
class TracePlan:
    """What to look for, and where."""

    id: str
    address: str | None
    #: Whether it is a conversation for sure.
    conversation: bool


async def show_trace(plan: TracePlan, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Search for a message, or for a conversation, and show what was found."""
    settings = settings_with(prefix)
    output = Output(as_json)
    dsn = settings.archive or archive_dsn()
    async with open_broker(url) as broker, open_archive(dsn, settings.prefix) as archive:
        search = _Search(broker, settings.prefix, archive, await _searched(plan, broker, settings.prefix))
        trace = None if plan.conversation else await search.message(plan.id)
        if trace is not None and trace.found:
            if output.json:
                output.record(record_of(trace))
            else:
                _print(trace, output)
            return OK
        conversation = await search.conversation(plan.id)
    if not conversation.turns:
        where = search.addresses[0] if plan.address else plural(len(search.addresses), "address")
        raise Failure(f"{plan.id} was not found in {where}; its history may be trimmed by now", NOT_FOUND)
    show_conversation(conversation, output)
    return OK


async def _searched(plan: TracePlan, broker: Broker, prefix: str) -> list[str]:
    if plan.address:
        return [address_of(plan.address)]
    addresses = await known_addresses(broker, prefix)
    say(f"searching {plural(len(addresses), 'address')} for it; --address is quicker")
    return addresses


@dataclass(frozen=True, slots=True)
class _Search:
    """The same addresses, searched for one thing and then perhaps for another."""

    broker: Broker
    prefix: str
    archive: LazyArchive | None
    addresses: list[str]

    async def message(self, message_id: str) -> Trace:
        with _progress(len(self.addresses)) as progress:
            return await trace_message(self.broker, self.prefix, message_id, self.addresses, progress)

    async def conversation(self, id: str) -> ConversationTrace:
        """Return the conversation with this id, or that of the message with this id."""
        found = await self._conversation(id)
        if len(found.turns) == 1 and found.turns[0].message.message_id == id:
            correlation_id = found.turns[0].message.correlation_id
            if correlation_id is not None and correlation_id != id:
                return await self._conversation(correlation_id)
        return found

    async def _conversation(self, correlation_id: str) -> ConversationTrace:
        with _progress(len(self.addresses)) as progress:
            return await trace_conversation(
                self.broker, self.prefix, correlation_id, self.addresses, self.archive, progress
            )


@contextmanager
def _progress(total: int) -> Iterator[Progress | None]:
    if total < 2 or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching", total=total)

        def advance(index: int, _total: int, address: str) -> None:
            bar.update(task, completed=index, description=address)

        yield advance


def record_of(trace: Trace) -> dict[str, Any]:
    """Return a trace as JSON."""
    return {
        "message_id": trace.message_id,
        "searched": trace.searched,
        "places": [asdict(place) for place in trace.places],
        "steps": [asdict(step) for step in trace.steps],
        "message": None if trace.message is None else dict(trace.message.envelope),
    }


def _print(trace: Trace, output: Output) -> None:
    message = trace.message
    if message is not None:
        sender = f" from {message.from_agent}" if message.from_agent else ""
        output.text(f"{message.message_type}{sender} to {_recipient(message)}, {message.priority}", "bold")
        output.text(shown_content(message, _LONGEST_CONTENT), "dim")
    _print_places(trace, output)
    if trace.steps:
        table = new_table("what happened", ["when", "outcome", "by", "stream", "entry"])
        for step in trace.steps:
            table.add_row(moment(step.at_ms), step.outcome, step.consumer, step.stream, step.entry_id)
        output.table(table)
    failure = next((p.state["last_failure"] for p in trace.places if p.state.get("last_failure")), None)
    if isinstance(failure, dict):
        output.text(
            f"last failure: {failure.get('error')} (attempt {failure.get('attempt')}, {failure.get('at')}, "
            f"{failure.get('consumer')})",
            "red",
        )


def _recipient(message: Message) -> str:
    if message.capability is not None:
        return f"capability.{message.capability}"
    return message.channel or f"agent.{message.to_agent}"


def _print_places(trace: Trace, output: Output) -> None:
    from rich.text import Text

    if not trace.places:
        output.text("it is nowhere any more; only records of it are left", "yellow")
        return
    table = new_table("where it is", ["place", "address", "stream", "entry", ">attempts", "since", "detail"])
    for place in trace.places:
        table.add_row(
            Text(place.status.replace("_", " "), _COLOURS[place.status]), place.address,
            Text(place.stream, colour_of(place.stream)), place.entry_id, str(place.attempts),
            _when(place), _detail(place),
        )  # fmt: skip
    output.table(table)


def _when(place: Place) -> str:
    return ("due at " if place.status == "due" else "") + moment(place.at_ms)


def _detail(place: Place) -> str:
    holder = f"by {place.consumer}" if place.consumer else ""
    crashes = place.state.get("crashes")
    died = f"{crashes} owner(s) died with it" if crashes else ""
    return ", ".join(part for part in (place.outcome, place.detail, holder, died) if part)
