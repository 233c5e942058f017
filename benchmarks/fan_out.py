"""One message, many subscribers: deliveries a second, and what subscribers cost who have nothing to do."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .catalogue import AGENTBUS, CATALOGUE
from .fan_out_sizes import LARGEST, SUBSCRIBER_PROCESSES, SUBSCRIBERS, TO_LARGEST
from .processes import SideFailed
from .protocol import FAN_OUT
from .results import Idle, fan_out

if TYPE_CHECKING:
    from .processes import Side
    from .runner import Runner

LIMIT = 30.0
FIRST_BURST = 500
"""Messages of the first burst to one subscriber; what it takes tells how long the next ones are."""


@dataclass(frozen=True, slots=True)
class Cast:
    """The processes of one candidate: one that announces, some that subscribe."""

    announcer: Side
    subscribers: tuple[Side, ...]


async def measure(runner: Runner) -> None:
    """Every candidate in turn, round by round; all sizes with the same processes."""
    for number in range(1, runner.plan.fan_out_rounds + 1):
        for name in runner.plan.candidates:
            if FAN_OUT in CATALOGUE[name].measures and runner.alive(name):
                try:
                    await _turn(runner, name, number)
                except SideFailed as error:
                    runner.strike(name, error)
                await runner.state.clean()


async def _turn(runner: Runner, name: str, number: int) -> None:
    await runner.state.clean()
    async with AsyncExitStack() as stack:
        announcer = await stack.enter_async_context(runner.side(name))
        runner.results.versions.update(announcer.versions)
        sides = [await stack.enter_async_context(runner.side(name)) for _ in range(SUBSCRIBER_PROCESSES)]
        deliveries = float(FIRST_BURST)
        for size in (each for each in SUBSCRIBERS if each <= runner.plan.most_subscribers):
            players = Cast(announcer, tuple(sides[: 1 if size == 1 else None]))
            count = max(5, int(deliveries / size))
            if name == AGENTBUS and size == LARGEST:
                count = TO_LARGEST
            rate = await _size(runner, name, players, size, count)
            runner.results.values[name, fan_out(size)][number] = rate
            runner.say(f"round {number}  {name:16} fan-out to {size:,}: {rate:,.0f} deliveries/s")
            deliveries = rate * runner.plan.seconds


async def _size(runner: Runner, name: str, players: Cast, size: int, count: int) -> float:
    """Deliveries a second to so many subscribers."""
    channel = runner.queue()
    await players.announcer.ask("open channel", channel, size, LIMIT)
    share = size // len(players.subscribers)
    await asyncio.gather(
        *(
            side.ask("subscribe", channel, index * share, LIMIT, share)
            for index, side in enumerate(players.subscribers)
        )
    )
    await _burst(players, channel, max(2, count // 4))
    if name == AGENTBUS and size == LARGEST and runner.results.idle is None:
        runner.results.idle = await _idle(runner, players, size)
    seconds = await _burst(players, channel, count)
    await asyncio.gather(*(side.ask("leave", limit=LIMIT) for side in players.subscribers))
    await players.announcer.ask("discard", channel)
    return count * size / seconds


async def _burst(players: Cast, channel: str, count: int) -> float:
    """Seconds from the first announcement to the last handler; all is settled afterwards."""
    for side in players.subscribers:
        await side.ask("expect", channel, count)
    gathering = asyncio.gather(
        *(side.ask("gather", channel, limit=LIMIT) for side in players.subscribers), return_exceptions=True
    )
    started = (await players.announcer.ask("announce", channel, count, LIMIT))["started"]
    ended = []
    for told in await gathering:
        if isinstance(told, BaseException):
            raise told
        ended.append(told["ended"])
    await players.announcer.ask("settled", channel)
    return float(max(ended) - started)


async def _idle(runner: Runner, players: Cast, size: int) -> Idle:
    """Shares of a core that subscribers take who hear nothing."""
    seconds = runner.plan.idle_seconds

    async def used() -> tuple[float, float]:
        told = [await side.ask("processor") for side in players.subscribers]
        return sum(one["seconds"] for one in told), await runner.state.processor_seconds()

    await asyncio.sleep(1)
    before = await used()
    await asyncio.sleep(seconds)
    after = await used()
    found = Idle(size, (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds)
    runner.say(f"idle     {size:,} subscribers: {found.processes:.0%} of a core, server {found.server:.0%}")
    return found
