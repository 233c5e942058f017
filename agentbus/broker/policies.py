"""Reading the stored policy of an address."""

from __future__ import annotations

from collections.abc import Mapping

from agentbus.broker.inbox import Inbox
from agentbus.errors import InvalidValue
from agentbus.events import Events
from agentbus.message.address_policy import Policy

NO_POLICY = Policy()


async def read_policy(inbox: Inbox, events: Events) -> Policy:
    """Return the declared policy of an inbox; one written by hand that is none counts as absent."""
    return parse_policy(await inbox.policy_fields(), inbox.address, inbox.keys.policy, events)


def parse_policy(fields: Mapping[str, str], address: str, key: str, events: Events) -> Policy:
    """Return a stored policy; one written by hand that is none counts as absent, with an event."""
    try:
        return Policy.from_fields(fields)
    except InvalidValue as error:
        events.emit("policy_ignored", address, f"{key}: {error}")
        return NO_POLICY
