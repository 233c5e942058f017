"""The planner: hands out the change, proposes, hears objections, asks, and decides."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from agentbus import Agent, Bus, Message
from examples.diff_review.messages import Change, Finding, Objection, Proposal, Question
from examples.diff_review.reviewers import PROJECT


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of the change."""

    verdict: str
    findings: list[Finding]
    objections: list[Objection]
    #: What the reviewers who objected said when they were asked.
    answers: dict[str, str]


class Planner:
    """Conducts one review."""

    def __init__(self, bus: Bus, reviewers: list[str]) -> None:
        self._bus = bus
        self._reviewers = reviewers
        self._answered: dict[str, asyncio.Future[str]] = {}
        self.agent = Agent("planner", type="planner")
        self.agent.on("dm")(self._hear)

    async def _hear(self, text: str, message: Message) -> None:
        answer = self._answered.get(message.from_agent or "")
        if answer is not None and not answer.done():
            answer.set_result(text)

    async def review(self, name: str, changes: list[Change]) -> Decision:
        """Have a change reviewed and decide about it."""
        # One conversation: the project holds those of before as well. `agentbus trace` shows it by this id.
        review = f"review-{secrets.token_hex(4)}"
        for change in changes:
            sent = await self._bus.send(
                "review", change, to=self._reviewers, channel=PROJECT, correlation_id=review
            )
            await sent.wait_all("processed", timeout="60s")
        proposal = Proposal(change=name, verdict="merge")
        said = await self._bus.collect(
            f"{PROJECT}.proposal", proposal, deadline="10s", reply=Objection, correlation_id=review
        )
        objections = [answer.content for answer in said if answer.content is not None]
        answers = {each.reviewer: await self._ask(each.reviewer, name, review) for each in objections}
        verdict = "rework" if objections or said.missing else "merge"
        decided = Proposal(change=name, verdict=verdict)
        await self._bus.publish(f"{PROJECT}.verdict", decided, correlation_id=review)
        return Decision(verdict, await self._findings(review), objections, answers)

    async def _ask(self, reviewer: str, about: str, review: str) -> str:
        answer = self._answered[reviewer] = asyncio.get_running_loop().create_future()
        question = Question(asker="planner", about=about, text="what would you change first?")
        await self._bus.dm(reviewer, question, type="question", correlation_id=review)
        return await asyncio.wait_for(answer, 30)

    async def _findings(self, review: str) -> list[Finding]:
        page = await self._bus.history(
            PROJECT, type="finding", correlation_id=review, limit=1_000, oldest_first=True
        )
        return [Finding.model_validate(entry.message.content) for entry in page.entries if entry.message]
