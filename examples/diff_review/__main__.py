"""Run it: ``python -m examples.diff_review``, and read along with ``agentbus tail project.demo``."""

from __future__ import annotations

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path

from agentbus import Bus
from examples.diff_review.checks import ruff_findings, tree_findings
from examples.diff_review.messages import Change
from examples.diff_review.patch import read_diff
from examples.diff_review.planner import Decision, Planner
from examples.diff_review.reviewers import make_reviewer

HERE = Path(__file__).parent
CHECKS = {"tree": tree_findings, "ruff": ruff_findings}


async def main(url: str) -> Decision:
    """Review ``change.diff`` on the broker at ``url``."""
    changes = [
        Change(file=each.name, text=each.text, new_lines=list(each.new_lines))
        for each in read_diff(HERE / "change.diff", HERE / "before")
    ]
    async with (
        Bus(url, agent="planner") as bus,
        Bus(url, agent="tree") as tree,
        Bus(url, agent="ruff") as ruff,
    ):
        planner = Planner(bus, list(CHECKS))
        async with (
            bus.serving(planner.agent),
            tree.serving(make_reviewer("tree", tree_findings, tree)),
            ruff.serving(make_reviewer("ruff", ruff_findings, ruff)),
        ):
            return await planner.review("change.diff", changes)


def report(decision: Decision) -> None:
    """Print what became of the change."""
    for finding in sorted(decision.findings, key=lambda each: (each.file, each.line, each.rule)):
        mark = "!" if finding.serious else " "
        print(f"{mark} {finding.file}:{finding.line}: {finding.rule}: {finding.text}")
    for reviewer, answer in sorted(decision.answers.items()):
        print(f"{reviewer} would begin with {answer}")
    print(f"verdict: {decision.verdict}")


if __name__ == "__main__":
    if find_spec("ruff") is None:
        sys.exit("one of the reviewers runs ruff, which is not installed: pip install ruff")
    report(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")))
