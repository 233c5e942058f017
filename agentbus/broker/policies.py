"""Reading the stored policy of an address."""

from __future__ import annotations

from collections.abc import Mapping

from agentbus.broker.inbox import Inbox
from agentbus.errors import InvalidValue
from agentbus.events import Events
from agentbus.message.address_policy import NO_POLICIES, NO_POLICY, Policies, Policy


async def read_policy(inbox: Inbox, events: Events) -> Policy:
    """Return the declared policy of an inbox; one written by hand that is none counts as absent."""
    return parse_policy(await inbox.policy_fields(), inbox.address, inbox.keys.policy, events)


async def read_policies(inbox: Inbox, events: Events) -> Policies:
    """Return what is declared for an inbox and its message types; one that is none counts as absent."""
    try:
        return Policies.from_fields(await inbox.policy_fields())
    except InvalidValue as error:
        events.emit("policy_ignored", inbox.address, f"{inbox.keys.policy}: {error}")
        return NO_POLICIES


def parse_policy(fields: Mapping[str, str], address: str, key: str, events: Events) -> Policy:
    """Return a stored policy; one written by hand that is none counts as absent, with an event."""
    try:
        return Policy.from_fields(fields)
    except InvalidValue as error:
        events.emit("policy_ignored", address, f"{key}: {error}")
        return NO_POLICY
