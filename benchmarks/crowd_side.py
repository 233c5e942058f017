"""A tenth of the crowd: `python -m benchmarks.crowd_side <address> <process> <processes> <agents> <each>`.

Serves its agents over one bus, waits for the word, then lets each agent send its messages one after the other
to agents all over the crowd. Answers with what its agents sent and handled, and how long messages took.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from agentbus import Agent, Bus

from .lines import Talk

PADDING = "x" * 200


def name_of(number: int) -> str:
    return f"crowd-{number}"


@dataclass(slots=True)
class Member:
    """One agent and its diary."""

    number: int
    handled: int = 0
    handled_by_then: int = 0
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def serve(self) -> Agent:
        agent = Agent(name_of(self.number))

        @agent.on("task")
        async def handle(body: dict[str, Any]) -> None:
            # The monotonic clock is the same for all processes of a machine, so differences are true.
            self.latencies.append(perf_counter() - body["sent"])
            self.handled += 1

        return agent

    async def send(self, bus: Bus, agents: int, each: int) -> None:
        """Send `each` messages, one at a time, to others picked by a seed of one's own."""
        choice = random.Random(self.number)
        started = perf_counter()
        for _ in range(each):
            body = {"sent": perf_counter(), "padding": PADDING}
            await bus.publish(f"agent.{name_of(choice.randrange(agents))}.task", body)
        self.seconds = perf_counter() - started


def _expected(numbers: range, agents: int, each: int) -> dict[int, int]:
    """How many messages the whole crowd will send to each of our agents: the seeds say it."""
    found = dict.fromkeys(numbers, 0)
    for sender in range(agents):
        choice = random.Random(sender)
        for _ in range(each):
            receiver = choice.randrange(agents)
            if receiver in found:
                found[receiver] += 1
    return found


async def _all_handled(members: list[Member], expected: dict[int, int], limit: float) -> None:
    deadline = perf_counter() + limit
    while perf_counter() < deadline:
        if all(member.handled >= expected[member.number] for member in members):
            return
        await asyncio.sleep(0.02)


async def _go(bus: Bus, members: list[Member], command: dict[str, Any]) -> dict[str, Any]:
    agents, each = command["count"], command["size"]
    expected = _expected(range(members[0].number, members[-1].number + 1), agents, each)
    started = perf_counter()
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(member.send(bus, agents, each))
    for member in members:  # while others still send: the share that has arrived tells who is neglected
        member.handled_by_then = member.handled
    await _all_handled(members, expected, command["limit"])
    return {
        "started": started,
        "ended": perf_counter(),
        "sent_seconds": [member.seconds for member in members],
        "shares": [member.handled_by_then / max(1, expected[member.number]) for member in members],
        "unhandled": sum(max(0, expected[member.number] - member.handled) for member in members),
        "latencies": [latency for member in members for latency in member.latencies],
    }


async def _serve(talk: Talk, address: str, numbers: range) -> None:
    members = [Member(number) for number in numbers]
    async with (
        Bus(address, agent=f"crowd-process-{numbers.start}") as bus,
        bus.serving(*(member.serve() for member in members)),
    ):
        talk.tell({"ready": {}})
        await talk.serve(lambda command: _go(bus, members, command))


def main() -> None:
    address, process, processes, agents = sys.argv[1], *(int(word) for word in sys.argv[2:])
    share = agents // processes
    talk = Talk()
    try:
        asyncio.run(_serve(talk, address, range(process * share, (process + 1) * share)))
    except Exception as error:
        talk.tell_error(error)


if __name__ == "__main__":
    main()
