"""A check that recurs and fails, its dead letter, and what becomes of that once the cause is gone."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

from agentbus import Agent, Bus, DeadLetterFilter, Retry

URL = "embedded://"
checker = Agent("checker")
site_is_up = False


@checker.on("check", retry=Retry(max_retries=0))
async def check(site: str) -> None:
    if not site_is_up:
        raise ConnectionError(f"{site} does not answer")


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    while not await reached():
        await asyncio.sleep(0.05)


async def main() -> None:
    global site_is_up
    async with Bus(URL, agent="operator") as bus, bus.serving(checker):

        async def one_is_dead() -> bool:
            return len(await bus.dead_letters.list("checker")) == 1

        async def it_is_processed() -> bool:
            return (await bus.inspect("checker")).ledger.ended["processed"] == 1

        schedule = await bus.schedules.add("agent.checker.check", "shop.example", "interval:2")
        await until(one_is_dead)
        await bus.schedules.cancel(schedule.id)
        for letter in await bus.dead_letters.list("checker"):
            print(f"{letter.type}: {letter.reason}, {letter.detail}")

        site_is_up = True
        retried = await bus.dead_letters.retry_all(DeadLetterFilter(address="agent.checker"))
        await until(it_is_processed)
        (inbox,) = (await bus.status()).addresses
        print(f"{retried.retried} retried; waiting {inbox.waiting}, dead {inbox.dead}")


# A schedule needs a worker; `agentbus up` would run one beside the broker.
AGENTBUS = [sys.executable, "-m", "agentbus.cli"]
worker = subprocess.Popen([*AGENTBUS, "workers", "run", "recurring", "--url", URL, "--log-level", "error"])
try:
    asyncio.run(main())
finally:
    worker.terminate()
    worker.wait()
