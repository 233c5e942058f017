"""An agent process: handles messages in one of several manners and writes down each begin and end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agentbus import Agent, AgentSettings, Bus, Defer, Delivery, Event, Reject, Retry
from tests.chaos.history import History
from tests.chaos.opening import opened

Work = Callable[[Delivery, History], Awaitable[None]]


async def run(
    *,
    url: str,
    folder: str,
    name: str,
    manner: str,
    concurrency: int = 8,
    lease: float = 4.0,
    seconds: float = 0.0,
    seed: str = "",
) -> None:
    """Serve the agent ``name`` until SIGTERM; ``manner`` names one of the methods of `Manners`."""
    history = History(Path(folder), "agent")
    manners = Manners(Path(folder), seconds, seed)
    bus = Bus(url)
    bus.events.listen(lambda event: _note_event(history, event))
    async with opened(bus):
        await bus.serve(make_agent(name, concurrency, lease, getattr(manners, manner), history))


def _note_event(history: History, event: Event) -> None:
    if event.action in ("fenced", "data_lost", "vanished"):
        history.write(event.action, note=event.detail)


def make_agent(name: str, concurrency: int, lease: float, work: Work, history: History) -> Agent:
    """Return an agent that logs around ``work``."""
    agent = Agent(name, concurrency=concurrency, settings=AgentSettings(lease=lease))

    @agent.on("task", retry=Retry(max_retries=5, retry_delay=0.2))
    async def handle(delivery: Delivery) -> None:
        line: dict[str, Any] = {
            "key": delivery.message.content["key"],
            "message_id": delivery.message.message_id,
            "attempt": delivery.attempt,
        }
        history.write("begin", **line, redelivered=delivery.redelivered)
        note = "failed"
        try:
            await work(delivery, history)
            note = "processed"
        except Defer:
            note = "deferred"
            raise
        except asyncio.CancelledError:
            note = "cancelled"
            raise
        finally:
            history.write("end", **line, note=note)

    return agent


class Manners:
    """What a handler does."""

    def __init__(self, folder: Path, seconds: float, seed: str) -> None:
        self._folder = folder
        self._seconds = seconds
        self._seed = seed

    async def work(self, delivery: Delivery, _: History) -> None:
        """Take up to a few milliseconds; one message in a hundred fails at first, one is deferred."""
        dice = zlib.crc32(f"{self._seed} {delivery.message.content['key']}".encode()) % 100
        if dice >= 50:
            await asyncio.sleep(dice / 100_000)
        if dice == 0 and delivery.attempt == 1:
            raise RuntimeError("fails the first time")
        if dice == 1 and not _deferred_before(delivery):
            raise Defer(0.1)

    async def fail_for_good(self, delivery: Delivery, history: History) -> None:
        """Work as above; some messages fail each time, some by chance, until their body is mended."""
        await self.work(delivery, history)
        content = delivery.message.content
        dice = zlib.crc32(f"{self._seed} fate {content['key']}".encode()) % 100
        # Long enough for a kill to find something in hand.
        await asyncio.sleep(dice / 5_000)
        if content.get("mended") or dice > 7:
            return
        if dice < 3:
            raise Reject("this body cannot be handled")
        if dice < 7 and random.random() < 0.6:
            raise Reject("bad luck")
        if dice == 7:
            raise RuntimeError("fails until the budget is spent")

    async def settle_first(self, delivery: Delivery, _: History) -> None:
        """Settle before the work is done, as one must not: the control that shows losses."""
        await delivery.ack()
        await asyncio.sleep(self._seconds)

    async def hold(self, delivery: Delivery, _: History) -> None:
        """Hold a message until killed; end at once when it comes from a dead owner."""
        if not delivery.redelivered:
            await asyncio.sleep(3600)

    async def wait_for_file(self, delivery: Delivery, _: History) -> None:
        """Hold a message until the run makes a file of that name."""
        if not delivery.redelivered:
            while not (self._folder / "go").exists():
                await asyncio.sleep(0.01)

    async def poison(self, delivery: Delivery, history: History) -> None:
        """Die of marked messages, as of a fault in native code; be well with the others."""
        if delivery.message.content.get("poison"):
            history.write("killed", note="poison")
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(self._seconds)

    async def sleep(self, _: Delivery, __: History) -> None:
        """Wait for a long time."""
        await asyncio.sleep(self._seconds)

    async def compute(self, _: Delivery, __: History) -> None:
        """Block the event loop with pure Python for a long time."""
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            sum(range(1000))


def _deferred_before(delivery: Delivery) -> bool:
    # Only a message that was held before is read from `returned`; a first delivery comes from its lane.
    return delivery.source.index == 0
