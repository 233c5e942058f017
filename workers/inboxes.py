"""This worker's share of the inboxes, in the small steps of a walk."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentbus.broker.inbox import Inbox
from agentbus.message.topics import is_inbox
from workers.role import Ground, Role
from workers.walk import my_addresses


def inbox_of(ground: Ground, address: str) -> Inbox:
    """Return the inbox of an address."""
    return Inbox(ground.bus.rooms.broker, ground.bus.settings.prefix, address)


async def my_inboxes(ground: Ground, role: Role) -> AsyncIterator[list[Inbox]]:
    """Yield the inboxes that are this process's share of a role, some at a time.

    Channels are left out: nothing is due there, and nobody holds work.
    """
    async for names in my_addresses(ground, role.name):
        inboxes = [inbox_of(ground, name) for name in names if is_inbox(name)]
        if inboxes:
            yield inboxes
