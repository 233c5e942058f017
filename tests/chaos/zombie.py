"""A consumer that settles by itself after others took its work: it asks nobody whether it still may.

The bus's own subscriber would notice before it sends; here every settlement is sent, so that what refuses
them is the broker's side alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from pathlib import Path

from agentbus.broker.answers import RawEntry
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.inbox import Inbox
from agentbus.broker.scripts import run as run_script
from agentbus.errors import BrokerUnavailable, StaleDelivery
from agentbus.receive.incarnation import consumer_name
from tests.chaos.history import History


async def run(*, url: str, folder: str, address: str, most: int) -> None:
    """Take ``most`` messages, keep the lease until frozen, settle all of them when told by a file."""
    broker = Broker(ConnectionSettings(url))
    inbox = Inbox(broker, "agentbus", address)
    history = History(Path(folder), "zombie")
    consumer = consumer_name("zombie")
    await inbox.join(consumer)
    held: list[RawEntry] = []
    while len(held) < most:
        held += await inbox.fetch(consumer, most - len(held), 1 << 20)
    history.write("holding", attempt=len(held))
    go = Path(folder) / f"settle-{address}"
    while not go.exists():
        # Frozen in the middle of a command, it wakes up with that command's deadline behind it.
        with contextlib.suppress(BrokerUnavailable):
            await run_script(broker, inbox.beat(consumer, 0, "serving"))
        await asyncio.sleep(0.1)
    accepted, refused = await _settle(inbox, consumer, held)
    history.write("settled", note=address, attempt=accepted)
    history.write("stale", note=address, attempt=refused)
    await broker.close()


async def _settle(inbox: Inbox, consumer: str, held: list[RawEntry]) -> tuple[int, int]:
    """Settle everything in every way there is; return (accepted, refused) counted in messages."""
    by_source: dict[int, list[bytes]] = {}
    for entry in held:
        by_source.setdefault(entry.source, []).append(entry.entry_id)
    accepted = refused = 0
    steps: list[tuple[int, Awaitable[object]]] = [
        (len(held), inbox.settle(consumer, "processed", by_source)),
        (len(held), inbox.release(consumer, by_source)),
        (1, inbox.postpone(consumer, held[0], 0, "retried", "", "zombie")),
        (1, inbox.bury(consumer, held[0], "rejected", "by a zombie", "", 0)),
    ]
    for messages, step in steps:
        try:
            await step
            accepted += messages
        except StaleDelivery:
            refused += messages
    return accepted, refused
