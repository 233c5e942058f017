"""``agentbus trace`` of a conversation, as a user sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agentbus import Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine
from tests.acceptance.terminal import on_terminal


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("trace"))


async def test_a_conversation_is_found_by_its_id_or_by_a_message_of_it(
    command: CommandLine, broker: BrokerForTests
) -> None:
    settings = BusSettings(prefix=command.environment["AGENTBUS_PREFIX"])
    async with Bus(broker.url, agent="planner", settings=settings) as bus:
        first = await bus.publish("agent.writer.task", 1, correlation_id="review-7")
        second = await bus.publish("agent.reviewer.task", 2, correlation_id="review-7")
    (found,) = await asyncio.to_thread(command.records, "trace", "review-7")
    assert [turn["message_id"] for turn in found["turns"]] == [first.message_id, second.message_id]
    assert [turn["places"][0]["status"] for turn in found["turns"]] == ["waiting", "waiting"]
    assert (found["searched"], found["archive"], found["complete"]) == (2, "none", True)
    (whole,) = await asyncio.to_thread(command.records, "trace", second.message_id, "--conversation")
    assert whole == found
    missing = await asyncio.to_thread(command, "trace", "review-8", "--conversation")
    assert missing.returncode == 3 and "was not found in 2 addresses" in missing.stderr
    shown = await asyncio.to_thread(on_terminal, command, "trace", "review-7")
    assert shown.code == 0
    for text in ("conversation review-7", "planner", "writer", "reviewer", "waiting", "2 messages in 2 addr"):
        assert text in shown.text
