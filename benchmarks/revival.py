"""Many dead letters are retried while fresh messages flow: are the fresh ones slowed down?"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .processes import talking
from .results import Revival

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from .processes import Side
    from .runner import Runner

FLOW = 20_000
"""Fresh messages a second."""
RETRIED = 5_000
"""Dead letters a second."""
START_LIMIT, LIMIT = 60.0, 120.0
MARGIN = 1.1
"""The letters are retried a little faster than the flow lasts, so that all of it is beside them."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One inbox on one broker, and where its processes live."""

    address: str
    root: Path
    folder: Path
    letters: int
    flow: int = FLOW
    seconds: float = 20.0
    """Length of the flow beside which the letters are retried; without them a quarter of it is enough."""


async def measure(runner: Runner) -> Revival:
    """Play it on the broker of the run."""
    await runner.state.clean()
    letters = runner.plan.letters
    scene = Scene(runner.addresses["redis"], runner.root, runner.folder, letters, seconds=letters / RETRIED)
    found = await play(scene)
    runner.say(
        f"revival  {found.letters:,} dead letters retried at {found.retry_rate:,.0f}/s: fresh messages "
        f"{found.fresh_before:,.0f}/s before, {found.fresh_beside:,.0f}/s beside them"
    )
    await runner.state.clean()
    return found


async def play(scene: Scene) -> Revival:
    """The flow alone, then the same flow while the letters are retried."""
    async with AsyncExitStack() as stack:
        parts = [await stack.enter_async_context(_part(scene, number)) for number in range(3)]
        publisher, consumer, retrier = parts
        await _flow(scene, publisher, consumer, 1.0)  # warms up everything, and does not count
        before, _ = await _flow(scene, publisher, consumer, scene.seconds / 4)
        await retrier.ask("fill", count=scene.letters, limit=LIMIT)
        rate = int(scene.letters / scene.seconds * MARGIN)
        retrying = asyncio.create_task(retrier.ask("retry", size=rate, limit=LIMIT))
        try:
            beside, handled = await _flow(scene, publisher, consumer, scene.seconds, scene.letters)
            retried = await retrying
        finally:
            retrying.cancel()
    return Revival(
        letters=int(retried["retried"]),
        retry_rate=retried["retried"] / retried["seconds"],
        fresh_before=before,
        fresh_beside=beside,
        closes=bool(handled["closes"]),
    )


async def _flow(
    scene: Scene, publisher: Side, consumer: Side, seconds: float, old: int = 0
) -> tuple[float, dict[str, Any]]:
    """Fresh messages handled a second while they flow, and what the consumer has to tell."""
    fresh = int(scene.flow * seconds)
    serving = asyncio.create_task(consumer.ask("serve", count=fresh, size=old, limit=LIMIT))
    try:
        await publisher.ask("flow", count=fresh, size=scene.flow, limit=LIMIT)
        handled = await serving
    finally:
        serving.cancel()
    return fresh / handled["seconds"], handled


def _part(scene: Scene, number: int) -> AbstractAsyncContextManager[Side]:
    command = (sys.executable, "-m", "benchmarks.revival_side", scene.address, "revival")
    return talking(command, scene.root, scene.folder / f"revival-{number}.log", START_LIMIT)
