"""What the tests of bindings share: agents that collect copies, and eyes on their inboxes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentbus import Agent, AgentSettings, Bus, BusSettings, Message
from agentbus.bindings import companion, table
from agentbus.broker.keys import inbox_keys


def quicken(patch: pytest.MonkeyPatch, age: float = 0.2) -> None:
    """Let tables live for a fraction of a second instead of a whole one."""
    patch.setattr(table, "AGE_LIMIT", age)
    for module in (table, companion):
        patch.setattr(module, "HOLDS_AFTER", age * 1.01)


def collector(name: str, *patterns: str) -> tuple[Agent, list[Message]]:
    """Return an agent bound to patterns, and the list of what its handler gets."""
    agent, seen = Agent(name, concurrency=1), []
    for pattern in patterns:
        agent.bind(pattern)

    @agent.on()
    async def collect(message: Message) -> None:
        seen.append(message)

    return agent, seen


def consenting(name: str, *copies_to: str) -> Agent:
    """Return an agent that handles anything and allows copies."""
    agent = Agent(name, settings=AgentSettings(copies_to=copies_to))

    @agent.on()
    async def handle(message: Message) -> None:
        pass

    return agent


async def contents(client: Any, settings: BusSettings, agent: str) -> list[Any]:
    """Return the content of everything in the lanes of an agent's inbox, which nobody serves."""
    found = []
    for lane in inbox_keys(settings.prefix, f"agent.{agent}").priority_lanes:
        for _, fields in await client.xrange(lane):
            found.append(json.loads(fields[b"message"])["body"]["content"])
    return found


async def bind_before_anybody_asked(bus: Bus, agent: str, *patterns: str) -> None:
    """Bind an agent that nobody serves, so that its inbox collects copies.

    At once, where `Agent.bind` takes a second: for tests in which no publisher has a table yet.
    """
    for pattern in patterns:
        await bus.rooms.bindings.bind(agent, pattern)
