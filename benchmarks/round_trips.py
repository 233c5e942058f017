"""Requests and their answers, one at a time and many at once; one message to many recipients."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from .catalogue import CATALOGUE
from .figures import quantile
from .processes import SideFailed
from .protocol import ROUND_TRIP, TO_MANY
from .results import AT_ONCE, ONE_TRIP, SEND_TO_MANY
from .tuning import AT_ONCE as REQUESTS_AT_ONCE
from .tuning import RECIPIENTS

if TYPE_CHECKING:
    from .runner import Runner

PILOT = 400
"""Requests that tell how many make a measurement of the wanted length."""


async def measure(runner: Runner) -> None:
    """Every candidate in turn, round by round."""
    for number in range(1, runner.plan.latency_rounds + 1):
        for name in runner.plan.candidates:
            if {ROUND_TRIP, TO_MANY} & CATALOGUE[name].measures and runner.alive(name):
                try:
                    await _turn(runner, name, number)
                except SideFailed as error:
                    runner.strike(name, error)
                await runner.state.clean()


async def _turn(runner: Runner, name: str, number: int) -> None:
    values, samples = runner.results.values, runner.plan.latency_samples
    async with AsyncExitStack() as stack:
        asker = await stack.enter_async_context(runner.side(name))
        runner.results.versions.update(asker.versions)
        if ROUND_TRIP in CATALOGUE[name].measures:
            queue, answerer = runner.queue(), await stack.enter_async_context(runner.side(name))
            await answerer.ask("answer", queue)
            trips = (await asker.ask("round trips", queue, samples))["samples"]
            pilot = await asker.ask("at once", queue, PILOT, size=REQUESTS_AT_ONCE)
            count = max(PILOT, int(pilot["rate"] * runner.plan.seconds))
            rate = (await asker.ask("at once", queue, count, size=REQUESTS_AT_ONCE))["rate"]
            await answerer.ask("leave")
            values[name, ONE_TRIP][number] = quantile(trips, 0.5)
            values[name, AT_ONCE][number] = rate
            runner.say(
                f"round {number}  {name:16} round trip {quantile(trips, 0.5) * 1000:.3f} ms, {rate:,.0f}/s"
            )
        if TO_MANY in CATALOGUE[name].measures:
            sends = (await asker.ask("to many", runner.queue(), samples, size=RECIPIENTS))["samples"]
            values[name, SEND_TO_MANY][number] = quantile(sends, 0.5)
            runner.say(f"round {number}  {name:16} to {RECIPIENTS}: {quantile(sends, 0.5) * 1000:.2f} ms")
