"""A conversation as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.text import Text

from agentbus.broker.inspection.found import Place
from agentbus.cli.output import Output, moment, new_table, plural, shown_content
from agentbus.history.conversation import ConversationTrace, Turn

_COLOURS = {
    "waiting": "cyan", "returned": "magenta", "in_flight": "yellow", "due": "blue", "dead": "red",
    "ended": "green", "logged": "default",
}  # fmt: skip
_LONGEST_CONTENT = 60


def show_conversation(conversation: ConversationTrace, output: Output) -> None:
    """Show it: one line for each message and address it went to."""
    if output.json:
        output.record(record_of(conversation))
        return
    table = new_table(
        f"conversation {conversation.correlation_id}", ["sent", "from", "to", "type", "end", "content"]
    )
    for turn in conversation.turns:
        for place in turn.places:
            table.add_row(*_row(turn, place))
    output.table(table)
    output.text(_summary(conversation), "dim" if conversation.complete else "yellow")


def record_of(conversation: ConversationTrace) -> dict[str, Any]:
    """Return it as JSON."""
    return {
        "correlation_id": conversation.correlation_id,
        "turns": [
            {
                "message_id": turn.message.message_id,
                "causation_id": turn.message.causation_id,
                "depth": turn.depth,
                "hops": turn.message.hops,
                "from": turn.message.from_agent,
                "sent_at_ms": turn.sent_ms,
                "type": turn.message.message_type,
                "places": [asdict(place) for place in turn.places],
                "message": dict(turn.message.envelope),
            }
            for turn in conversation.turns
        ],
        "searched": conversation.searched,
        "archive": conversation.archive,
        "missing": list(conversation.missing),
        "more": conversation.more,
        "complete": conversation.complete,
    }


def _row(turn: Turn, place: Place) -> tuple[str | Text, ...]:
    message = turn.message
    # A message that another one led to stands under it, and not too far to the right.
    lead = "  " * min(turn.depth, 8) + ("└ " if turn.depth else "")
    return (
        moment(turn.sent_ms),
        message.from_agent or "?",
        place.address.removeprefix("agent."),
        lead + message.message_type,
        Text(_end(place), _COLOURS[place.status]),
        shown_content(message, _LONGEST_CONTENT),
    )


def _end(place: Place) -> str:
    if place.status == "ended":
        return place.outcome or "ended"
    if place.status == "dead":
        return f"dead: {place.outcome}"
    if place.status == "due":
        return f"due at {moment(place.at_ms)}"
    holder = f" by {place.consumer}" if place.status == "in_flight" and place.consumer else ""
    return place.status.replace("_", " ") + holder


def _summary(conversation: ConversationTrace) -> str:
    searched = plural(conversation.searched, "address")
    parts = [f"{plural(len(conversation.turns), 'message')} in {searched} of Redis"]
    if conversation.archive != "none":
        parts.append("the archive " + ("too" if conversation.archive == "searched" else "does not answer"))
    if conversation.missing:
        causes = plural(len(conversation.missing), "cause")
        parts.append(f"{causes} not found: trimmed, or of another conversation")
    if conversation.more:
        parts.append("there are more")
    return "; ".join(parts)
