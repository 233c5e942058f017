"""A thousand agents in ten processes, all sending to one another: does everybody get on?"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from .figures import quantile
from .processes import talking
from .results import Crowd

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .processes import Side
    from .runner import Runner

PROCESSES = 10
START_LIMIT, LIMIT = 90.0, 90.0


async def measure(runner: Runner) -> Crowd:
    """Start all processes, give the word to all at once, gather what each has to tell."""
    await runner.state.clean()
    agents, each = runner.plan.crowd_agents, runner.plan.crowd_messages
    async with AsyncExitStack() as stack:
        sides = await asyncio.gather(
            *(stack.enter_async_context(_member(runner, number, agents)) for number in range(PROCESSES))
        )
        runner.say(f"crowd    {agents:,} agents are there, each sends {each}")
        told = await asyncio.gather(*(side.ask("go", count=agents, size=each, limit=LIMIT) for side in sides))
    found = _together(told, agents, each)
    runner.say(f"crowd    {found.messages:,} messages in {found.seconds:.1f} s, {found.unhandled} unhandled")
    await runner.state.clean()
    return found


def _member(runner: Runner, number: int, agents: int) -> AbstractAsyncContextManager[Side]:
    words = (runner.addresses["redis"], number, PROCESSES, agents)
    command = (sys.executable, "-m", "benchmarks.crowd_side", *(str(word) for word in words))
    return talking(command, runner.root, runner.folder / f"crowd-{number}.log", START_LIMIT)


def _together(told: list[dict[str, Any]], agents: int, each: int) -> Crowd:
    def all_of(name: str) -> list[float]:
        return [value for one in told for value in one[name]]

    sent, shares, latencies = all_of("sent_seconds"), all_of("shares"), all_of("latencies")
    return Crowd(
        agents=agents,
        processes=PROCESSES,
        messages=agents * each,
        seconds=max(one["ended"] for one in told) - min(one["started"] for one in told),
        unhandled=sum(one["unhandled"] for one in told),
        slowest_sender=max(sent) / median(sent),
        fewest_share=min(shares) / median(shares),
        latency_median=quantile(latencies, 0.5),
        latency_p99=quantile(latencies, 0.99),
        latency_worst=max(latencies),
    )
