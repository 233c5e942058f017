"""`python -m benchmarks.costs`: processor time per message, ours and the server's, and where ours goes."""

from __future__ import annotations

import asyncio
import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentbus import Agent, Bus
from agentbus.broker.embedded import PrivateBroker, find_server

MESSAGES = 50_000
ROUNDS = 5
BODY = {"text": "x" * 225, "n": 1}
Work = Callable[[Bus], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one message costs."""

    per_second: float
    #: Microseconds of processor time in this process and in the server.
    ours: float
    servers: float


async def publish(bus: Bus) -> None:
    """500 tasks, each awaiting one message after the other."""

    async def one() -> None:
        for _ in range(MESSAGES // 500):
            await bus.publish("agent.costs.task", BODY)

    await asyncio.gather(*(one() for _ in range(500)))


async def publish_many(bus: Bus) -> None:
    """A thousand bodies a call."""
    for _ in range(MESSAGES // 1000):
        await bus.publish_many("agent.costs.task", (BODY for _ in range(1000)))


async def consume(bus: Bus) -> None:
    """A handler that does nothing, from a filled inbox."""
    done, handled = asyncio.Event(), 0
    agent = Agent("costs", concurrency=64)

    @agent.on("task")
    async def handle(body: object) -> None:
        nonlocal handled
        handled += 1
        if handled == MESSAGES:
            done.set()

    async with bus.serving(agent):
        await done.wait()


async def server_seconds(bus: Bus) -> float:
    """Processor time that the server has used."""
    text = (await bus.rooms.broker.execute("INFO", "cpu")).decode()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


async def measure(bus: Bus, work: Work) -> Cost:
    """Run one piece of work and return what a message of it cost."""
    server, begun, ours = await server_seconds(bus), time.perf_counter(), time.process_time()
    await work(bus)
    wall, ours = time.perf_counter() - begun, time.process_time() - ours
    server = await server_seconds(bus) - server
    return Cost(MESSAGES / wall, ours / MESSAGES * 1e6, server / MESSAGES * 1e6)


async def profile(bus: Bus, work: Work) -> str:
    """Return the functions that take most of our time in one piece of work."""
    profiler, text = cProfile.Profile(), io.StringIO()
    profiler.enable()
    await work(bus)
    profiler.disable()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(12)
    return "\n".join(line for line in text.getvalue().splitlines()[6:] if line.strip())


async def main() -> None:
    """Measure each piece of work several times; print medians, then one profile each."""
    async with PrivateBroker(find_server()) as server, Bus(server.url, agent="costs") as bus:
        costs: dict[str, list[Cost]] = {}
        works: list[Work] = [publish, publish_many, consume]
        for _ in range(ROUNDS):
            for work in works:
                if work is not consume:
                    await bus.rooms.broker.execute("FLUSHALL")
                costs.setdefault(work.__name__, []).append(await measure(bus, work))
        print("median of", ROUNDS, "rounds, microseconds of processor time per message")
        for name, rounds in costs.items():
            ours = statistics.median(cost.ours for cost in rounds)
            servers = statistics.median(cost.servers for cost in rounds)
            rate = statistics.median(cost.per_second for cost in rounds)
            print(f"{name:14} {rate:9,.0f}/s   ours {ours:5.2f}   server's {servers:5.2f}")
        for work in works:
            if work is not consume:
                await bus.rooms.broker.execute("FLUSHALL")
            print(f"\n{work.__name__}\n{await profile(bus, work)}")


if __name__ == "__main__":
    asyncio.run(main())
