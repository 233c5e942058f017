"""This worker's share of the inboxes, in the small steps of a walk."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentbus.broker.inbox import Inbox
from workers.role import Ground, Role
from workers.walk import my_addresses

#: What the addresses of inboxes begin with; channels have no consumers and nothing due.
INBOX_PREFIX = "agent."


def inbox_of(ground: Ground, address: str) -> Inbox:
    """Return the inbox of an address."""
    return Inbox(ground.bus.rooms.broker, ground.bus.settings.prefix, address)


async def my_inboxes(ground: Ground, role: Role) -> AsyncIterator[list[Inbox]]:
    """Yield the inboxes that are this process's share of a role, some at a time."""
    async for names in my_addresses(ground, role.name):
        inboxes = [inbox_of(ground, name) for name in names if name.startswith(INBOX_PREFIX)]
        if inboxes:
            yield inboxes
