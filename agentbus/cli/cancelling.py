"""Cancels a message for ``agentbus cancel``."""

from __future__ import annotations

from agentbus.cli.output import Output
from agentbus.cli.session import OK, open_bus


async def cancel_message(
    message_id: str, address: str | None, sender: str | None,
    *, url: str | None, prefix: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Cancel one message and say where it was."""
    output = Output(as_json)
    async with open_bus(url, prefix, sender) as bus:
        cancelled = await bus.cancel(message_id, address)
    if output.json:
        output.record(cancelled.to_record())
        return OK
    for place in cancelled.places:
        when = "cancelled" if place.ended else "cancelled; it ends when its turn comes, and nobody gets it"
        output.text(f"{place.address} {place.stream} {place.entry_id}  {when}", "green")
    return OK
