"""Two worker processes share a pool; one is killed in the middle of its work, and nothing is lost."""

import asyncio
import sys
import time
from asyncio.subprocess import Process

from agentbus import Agent, Bus, Context, Delivery

TASKS = 12
begun = time.monotonic()


def say(who: str, what: str) -> None:
    print(f"{time.monotonic() - begun:5.1f} s  {who:8} {what}", flush=True)


async def work(name: str) -> None:
    """The life of one worker process."""
    worker = Agent(name, pools=["reviewers"], concurrency=2)

    @worker.on("review")
    async def review(number: int, delivery: Delivery, context: Context) -> None:
        await context.publish("agent.planner.taken", {"by": name, "number": number})
        await asyncio.sleep(0.3)
        report = {"by": name, "number": number, "again": delivery.redelivered}
        await context.publish("agent.planner.done", report)

    async with Bus("embedded://", agent=name) as bus:
        await bus.publish("agent.planner.ready", name)
        await bus.serve(worker)


async def coordinate() -> None:
    planner = Agent("planner", concurrency=1)
    workers: dict[str, Process] = {}
    held: dict[str, set[int]] = {"anna": set(), "ben": set()}
    done: dict[int, bool] = {}
    ready: set[str] = set()

    @planner.on("ready")
    async def started(name: str) -> None:
        ready.add(name)

    @planner.on("taken")
    async def taken(note: dict[str, str | int]) -> None:
        by, number = str(note["by"]), int(note["number"])
        held[by].add(number)
        if by == "anna" and len(held["anna"]) == 2 and done:
            workers["anna"].kill()
            await workers["anna"].wait()
            say("anna", f"killed with SIGKILL while it holds {sorted(held['anna'])}")

    @planner.on("done")
    async def finished(report: dict[str, str | int | bool]) -> None:
        by, number = str(report["by"]), int(report["number"])
        held[by].discard(number)
        done[number] = bool(report["again"])
        say(by, f"finished {number:2}" + (", whose first owner died" if report["again"] else ""))

    async with Bus("embedded://", agent="planner") as bus, bus.serving(planner):
        for name in held:
            workers[name] = await asyncio.create_subprocess_exec(sys.executable, __file__, name)
        while len(ready) < len(workers):
            await asyncio.sleep(0.01)
        await bus.publish_many("agent.reviewers.review", range(1, TASKS + 1))
        say("planner", f"sent {TASKS} reviews to the pool")
        while len(done) < TASKS:
            await asyncio.sleep(0.05)
        workers["ben"].terminate()
        await workers["ben"].wait()
    say("planner", f"{TASKS} sent, {len(done)} processed, 0 lost, {sum(done.values())} redelivered")


asyncio.run(work(sys.argv[1]) if sys.argv[1:] else coordinate())
