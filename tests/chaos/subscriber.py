"""A process of an agent that reads channels or its inbox: writes down each begin and end, and its place."""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path
from typing import Any

from agentbus import Agent, AgentSettings, Bus, Defer, Delivery, Event, Reject, Retry
from tests.chaos.haste import hurry_debts
from tests.chaos.history import History
from tests.chaos.opening import opened


async def run(
    *,
    url: str,
    folder: str,
    name: str,
    channels: list[str] | None = None,
    types: list[str] | None = None,
    binds: list[str] | None = None,
    copies_to: list[str] | None = None,
    concurrency: int = 1,
    fails: bool = False,
    lease: float = 2.0,
    seed: str = "",
) -> None:
    """Serve the agent ``name`` until SIGTERM; with ``fails`` some of its handlers do.

    It handles the message ``types`` of its inbox, and ``channels`` one message after the other unless
    ``concurrency`` is more.
    """
    hurry_debts()
    history = History(Path(folder), "subscriber")
    allowed = None if copies_to is None else tuple(copies_to)
    agent = Agent(name, settings=AgentSettings(lease=lease, copies_to=allowed))
    reading = _Reading(name, history, seed if fails else "")
    for message_type in types or ():
        agent.on(message_type, retry=Retry(max_retries=5, retry_delay=0.1))(reading.handle)
    for pattern in binds or ():
        # Declared before serving: it holds when the agent is ready.
        agent.bind(pattern)
    for channel in channels or ():
        agent.on(
            f"{channel}.task", start="beginning", concurrency=concurrency,
            retry=Retry(max_retries=5, retry_delay=0.1),
        )(reading.handle)  # fmt: skip
    bus = Bus(url, agent=name)
    bus.events.listen(lambda event: _note_event(history, name, event))
    async with opened(bus):
        await bus.serve(agent)
    history.write("left", agent=name)


def _note_event(history: History, name: str, event: Event) -> None:
    if event.action in ("fenced", "data_lost", "gap"):
        history.write(event.action, agent=name, channel=event.address, note=event.detail)
    elif event.action == "copy_made_good":
        history.write(event.action, agent=event.fields["agent"], copies=event.fields["count"])


class _Reading:
    """What the handler does."""

    def __init__(self, name: str, history: History, seed: str) -> None:
        self._name = name
        self._history = history
        self._seed = seed

    async def handle(self, delivery: Delivery) -> None:
        """Take up to some milliseconds; some fail at first, one in a hundred for good."""
        line: dict[str, Any] = {
            "agent": self._name,
            "key": delivery.message.content["key"],
            "message_id": delivery.message.message_id,
            "attempt": delivery.attempt,
            "channel": delivery.message.channel or "",
            "entry": delivery.entry_id if delivery.source.is_channel else "",
        }
        gap = (delivery.gap.missed or 0) if delivery.gap is not None else 0
        self._history.write("begin", **line, redelivered=delivery.redelivered, missed=gap)
        note = "failed"
        try:
            await self._work(delivery, line["key"])
            note = "processed"
        except Defer:
            note = "deferred"
            raise
        except Reject:
            note = "rejected"
            raise
        except asyncio.CancelledError:
            note = "cancelled"
            raise
        finally:
            self._history.write("end", **line, note=note)

    async def _work(self, delivery: Delivery, key: str) -> None:
        dice = zlib.crc32(f"{self._seed} {key}".encode()) % 100
        if dice >= 60:
            await asyncio.sleep(dice / 6_000)
        if not self._seed:
            return
        if dice == 0:
            raise Reject("this body cannot be handled")
        if dice < 8 and delivery.attempt == 1:
            raise RuntimeError("fails the first time")
        if dice == 8 and delivery.source.is_channel:
            raise Defer(0.1)
