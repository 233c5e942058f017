"""``agentbus pub --collect`` and ``--stream``: answers of many, and in parts, from the shell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from agentbus import Agent, Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine


async def test_a_channel_is_asked_and_an_answer_is_read_in_parts(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    prefix = unique("p")
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=prefix)
    anna, away = Agent("anna"), Agent("away")
    away.on("channel.design.objection")(lambda: None)

    @anna.on("channel.design.objection")
    async def objection(body: str) -> str:
        return f"against {body}"

    @anna.on("task")
    async def task(body: int) -> AsyncIterator[int]:
        for number in range(body):
            yield number

    async with Bus(broker.url, settings=BusSettings(prefix=prefix)) as bus, bus.serving(anna):
        ask = ("pub", "channel.design.objection", '"tabs"', "--collect", "--timeout")
        everybody = await asyncio.to_thread(command, *ask, "20s")
        assert everybody.returncode == 0, everybody.stderr
        (answer,) = [json.loads(line) for line in everybody.stdout.splitlines()]
        assert (answer["agent"], answer["content"], answer["failure"]) == ("anna", "against tabs", None)

        async with bus.serving(away):
            pass
        assert answer["at"].endswith("Z") and "T" in answer["at"]
        some = await asyncio.to_thread(command, *ask, "1s")
        assert some.returncode == 5 and "no answer from away" in some.stderr and "anna" in some.stdout

        parts = await asyncio.to_thread(command, "pub", "agent.anna.task", "3", "--stream")
        assert (parts.returncode, parts.stdout) == (0, "0\n1\n2\n")
