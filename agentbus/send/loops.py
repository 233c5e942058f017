"""The word that a conversation went round and round, for whoever looks later."""

from __future__ import annotations

from typing import Any

from agentbus.errors import LoopDetected
from agentbus.message.current import current_message
from agentbus.send.envelope import PublishOptions, Sender

TOPIC = "system.errors.loop"
_LONGEST_DETAIL = 500


def notice(sender: Sender, error: LoopDetected) -> tuple[dict[str, Any], PublishOptions]:
    """Return body and options of the notice; one for each sender, address and conversation."""
    cause = current_message()
    body = {
        "reason": "loop",
        "address": error.address,
        "from_agent": sender.agent,
        "correlation_id": error.correlation_id,
        "hops": error.hops,
        "detail": str(error)[:_LONGEST_DETAIL],
    }
    options: PublishOptions = {
        "correlation_id": error.correlation_id,
        # A loop that is tried again and again is no news.
        "key": f"loop {error.address} {error.correlation_id}"[:512],
        "deadline": "5s",
    }
    if cause is not None:
        options["causation_id"] = cause.message_id
    return body, options
