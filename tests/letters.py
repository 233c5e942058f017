"""Makes dead letters without waiting for handlers to fail."""

from __future__ import annotations

import json
import secrets
from typing import Any

from agentbus import Bus
from agentbus.broker.inbox import Inbox


async def make_dead(
    bus: Bus, name: str, *bodies: Any, reason: str = "exhausted", **options: Any
) -> list[str]:
    """Publish to an inbox, take all and bury it; returns the ids of the dead letters, '' for parked ones."""
    for stored in await bus.publish_many(f"agent.{name}.{options.pop('type', 'task')}", bodies, **options):
        assert not isinstance(stored, Exception), stored
    return await bury_all(bus, name, len(bodies), reason)


async def bury_all(bus: Bus, name: str, count: int, reason: str = "exhausted") -> list[str]:
    """Take so many messages of an inbox and bury them."""
    inbox = Inbox(bus.rooms.broker, bus.settings.prefix, f"agent.{name}")
    consumer, ids = f"gravedigger.{secrets.token_hex(4)}", []
    await inbox.join(consumer)
    await inbox.sweep()
    failure = json.dumps({"at": "2026-01-01T00:00:00.000Z", "error": "boom", "attempt": 4})
    while len(ids) < count:
        entries = await inbox.fetch(consumer, min(100, count - len(ids)), 1 << 24)
        assert entries, "there is nothing to bury"
        for entry in entries:
            burial = await inbox.bury(consumer, entry, reason, "boom", failure, 3)
            assert burial is not None
            ids.append(f"agent.{name}:{burial.letter}" if burial.letter else "")
    await inbox.leave(consumer)
    return ids
