"""What a great many waiting messages cost: memory, and the speed of everything else."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from .catalogue import AGENTBUS, AGENTBUS_MANY, RAW_PUBLISH
from .figures import quantile
from .results import Backlog

if TYPE_CHECKING:
    from .runner import Runner

FULL = "backlog"
ROUNDS = 3
FILL_LIMIT = 240.0

PUBLISH, PUBLISH_MANY, CONSUME, IDLE = "publish", "publish_many", "consume", "idle latency"


async def measure(runner: Runner) -> Backlog:
    """Weigh the same number of raw entries first, then ours; leave ours there and measure around it."""
    count = runner.plan.backlog
    raw = await _weigh(runner, RAW_PUBLISH, "weigh", count)
    idle_before = await _idle(runner)
    own = await _weigh(runner, AGENTBUS_MANY, FULL, count)
    text = await runner.state.stored_text(f"agentbus:{{agent.{FULL}}}:*")
    slowdown = await _slowdown(runner)
    slowdown[IDLE] = await _idle(runner) / idle_before
    await runner.state.clean()
    alike = await _weigh(runner, RAW_PUBLISH, "weigh", count, text)
    await runner.state.clean()
    return Backlog(count, raw, alike, own, text, slowdown)


async def _weigh(runner: Runner, name: str, queue: str, count: int, size: int = 0) -> float:
    """Bytes per message of `count` waiting messages; `size` replaces the body by one of that many bytes."""
    await runner.state.clean()
    before = await runner.state.used_memory()
    async with runner.side(name) as producer:
        await producer.ask("fill", queue, count, FILL_LIMIT, size=size)
    found = (await runner.state.used_memory() - before) / count
    runner.say(f"backlog  {count:,} messages of {name}: {found:.0f} bytes each")
    return found


async def _slowdown(runner: Runner) -> dict[str, float]:
    """Medians of rounds that take turns between an empty inbox and the full one."""
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for queue in (runner.queue(), FULL):
            place = "full" if queue == FULL else "empty"
            for measure, rate in (await _round(runner, queue)).items():
                rates.setdefault((measure, place), []).append(rate)
    found = {}
    for measure in (PUBLISH, PUBLISH_MANY, CONSUME):
        empty, full = median(rates[measure, "empty"]), median(rates[measure, "full"])
        found[measure] = empty / full
        runner.say(f"backlog  {measure}: {empty:,.0f}/s without, {full:,.0f}/s with it")
    return found


async def _round(runner: Runner, queue: str) -> dict[str, float]:
    """Publish to this inbox in both ways, then take as many out again."""
    count = runner.count(AGENTBUS, "consume")
    found = {}
    for measure, name in ((PUBLISH, AGENTBUS), (PUBLISH_MANY, AGENTBUS_MANY)):
        async with runner.side(name) as producer:
            found[measure] = (await producer.ask("publish", queue, count))["rate"]
    async with runner.side(AGENTBUS) as consumer:
        found[CONSUME] = (await consumer.ask("consume some", queue, count))["rate"]
    return found


async def _idle(runner: Runner) -> float:
    """Seconds of an idle inbox beside whatever the server holds: the middle one of three medians."""
    medians = []
    for _ in range(ROUNDS):
        async with runner.side(AGENTBUS) as alone:
            answer = await alone.ask("latency", runner.queue(), runner.plan.latency_samples)
        medians.append(quantile(answer["samples"], 0.5))
    return median(medians)
