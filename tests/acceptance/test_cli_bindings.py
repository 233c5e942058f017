"""``agentbus bindings``: listed with their counters, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from agentbus import Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine
from tests.agents.waiting import eventually
from tests.bindings import bind_before_anybody_asked

Unique = Callable[[str], str]


async def test_bindings_are_listed_with_what_was_copied_and_refused_and_one_is_ended(
    broker: BrokerForTests, tmp_path: Path, unique: Unique
) -> None:
    settings = BusSettings(prefix=unique("p"))
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=settings.prefix)
    async with Bus(broker.url, agent="sender", settings=settings) as bus:
        await bind_before_anybody_asked(bus, "observer", "*.planner.status")
        for topic in ("agent.planner.status", "channel.planner.status", "channel.planner.status"):
            await bus.publish(topic, 1)
        await eventually(lambda: _counted(bus))
        (listed,) = await asyncio.to_thread(command.records, "bindings")
        assert (listed["agent"], listed["pattern"]) == ("observer", "*.planner.status")
        assert (listed["copied"], listed["refused"]) == (2, {"no_consent": 1})
        refused = await asyncio.to_thread(command, "bindings", "rm", "observer", "*.planner.task")
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "observer is not bound to '*.planner.task'" in refused.stderr
        removing = ("bindings", "rm", "observer", "*.planner.status")
        assert (await asyncio.to_thread(command.records, *removing))[0]["removed"] is True
        assert await bus.bindings() == []


async def _counted(bus: Bus) -> bool:
    return sum(binding.copied for binding in await bus.bindings()) == 2
