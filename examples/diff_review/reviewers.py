"""Reviewers: each runs one check, tells the project what it found, objects, and answers questions."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from agentbus import Agent, Bus, Context, Message
from examples.diff_review.messages import Change, Finding, Objection, Proposal, Question

PROJECT = "project.demo"
Check = Callable[[Change], list[Finding]]


def make_reviewer(name: str, check: Check, bus: Bus) -> Agent:
    """Return an agent that reviews by ``check`` and speaks through ``bus``."""
    reviewer = Agent(name, type="reviewer", capabilities=["review"])
    #: By conversation: what a review that was broken off has left behind is none of the next one's.
    serious: dict[str | None, list[Finding]] = defaultdict(list)

    @reviewer.on("review")
    async def review(change: Change, context: Context) -> None:
        # In a thread: ruff takes its time, and this agent has questions to answer.
        for finding in await asyncio.to_thread(check, change):
            if finding.serious:
                serious[context.message.correlation_id].append(finding)
            await context.publish(f"{PROJECT}.finding", finding)

    @reviewer.on(f"{PROJECT}.proposal")
    async def object_to(proposal: Proposal, message: Message) -> Objection | None:
        reasons = serious[message.correlation_id]
        return Objection(reviewer=name, reasons=reasons) if proposal.verdict == "merge" and reasons else None

    @reviewer.on("question")
    async def answer(question: Question, message: Message) -> None:
        first = min(serious[message.correlation_id], key=lambda finding: (finding.file, finding.line))
        await bus.dm(question.asker, f"{first.file}:{first.line}: {first.text}")

    return reviewer
