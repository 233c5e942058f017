"""One agent with a typed handler, one message to it, and one request with its answer."""

import asyncio

from pydantic import BaseModel

from agentbus import Agent, Bus, Context


class Review(BaseModel):
    pr: int
    lines: int


class Verdict(BaseModel):
    approved: bool


reviewer = Agent("reviewer")


@reviewer.on("task")
async def review(task: Review, context: Context) -> Verdict:
    print(f"attempt {context.attempt} at PR {task.pr}")
    return Verdict(approved=task.lines < 400)  # return = processed, raise = tried again


async def main() -> None:
    async with Bus("embedded://", agent="planner") as bus, bus.serving(reviewer):
        await bus.publish("agent.reviewer.task", Review(pr=7, lines=12), priority="high", ttl="10m")
        answer = await bus.request("agent.reviewer.task", Review(pr=8, lines=900), reply=Verdict)
        print(f"PR 8 approved: {answer.approved}")


asyncio.run(main())
