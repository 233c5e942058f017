"""Reviewers: each runs one check, tells the project what it found, objects, and answers questions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentbus import Agent, Bus, Context
from examples.diff_review.messages import Change, Finding, Objection, Proposal, Question

PROJECT = "project.demo"
Check = Callable[[Change], list[Finding]]


def make_reviewer(name: str, check: Check, bus: Bus) -> Agent:
    """Return an agent that reviews by ``check`` and speaks through ``bus``."""
    reviewer = Agent(name, type="reviewer", capabilities=["review"])
    serious: list[Finding] = []

    @reviewer.on("review")
    async def review(change: Change, context: Context) -> None:
        # In a thread: ruff takes its time, and this agent has questions to answer.
        for finding in await asyncio.to_thread(check, change):
            if finding.serious:
                serious.append(finding)
            await context.publish(f"{PROJECT}.finding", finding)

    @reviewer.on(f"{PROJECT}.proposal")
    async def object_to(proposal: Proposal) -> Objection | None:
        return Objection(reviewer=name, reasons=serious) if proposal.verdict == "merge" and serious else None

    @reviewer.on("question")
    async def answer(question: Question) -> None:
        first = min(serious, key=lambda finding: (finding.file, finding.line))
        await bus.dm(
            question.asker, f"{first.file}:{first.line}: {first.text}", correlation_id=question.about
        )

    return reviewer
