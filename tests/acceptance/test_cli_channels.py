"""``agentbus`` on channels: sent, looked at, found, and refused where an inbox is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from agentbus import Agent, Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine

LARGEST_ID = "18446744073709551615-18446744073709551615"


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("p"))


def test_a_channel_is_published_to_looked_at_and_searched(command: CommandLine) -> None:
    (stored,) = command.records("pub", "system.announcements.pause", '{"until": "noon"}')
    assert stored["address"] == "system.announcements" and stored["known"] is True
    command.records("pub", "system.announcements.resume.now", "{}")
    command.records("pub", "agent.reviewer.task", "1")

    both = command.records("tail", "system.announcements", "--no-follow")
    assert [(seen["stream"], seen["message"]["message_type"]) for seen in both] == [
        ("log", "pause"), ("log", "resume.now"),
    ]  # fmt: skip
    (one,) = command.records("tail", "system.announcements.resume.*", "--no-follow")
    assert one["message"]["channel"] == "system.announcements"

    (alone,) = command.records("trace", stored["message_id"], "--address", "system.announcements")
    (among,) = command.records("trace", stored["message_id"])
    assert alone["places"] == among["places"]
    assert [(place["status"], place["entry_id"]) for place in alone["places"]] == [
        ("logged", stored["entry_id"])
    ]
    assert among["searched"] == 2

    inbox, channel = command.records("inbox")
    assert (inbox["address"], inbox["waiting"]) == ("agent.reviewer", 1)
    assert (channel["address"], channel["messages"], channel["hand_made"]) == ("system.announcements", 2, 0)


def test_what_needs_an_inbox_names_the_channel_and_what_to_do(command: CommandLine) -> None:
    for words in (
        ["inbox", "channel.design"],
        ["sub", "channel.design"],
        ["doctor", "--repair", "system.bus"],
    ):
        finished = command(*words)
        assert finished.returncode == 2, words
        assert "is a channel" in finished.stderr and "agentbus tail" in finished.stderr
    finished = command("tail", "channel.design", "--dead", "--no-follow")
    assert finished.returncode == 2 and "no dead letters" in finished.stderr
    finished = command("tail", "chanel.design", "--no-follow")
    kinds = "begin with agent., capability., channel., project., system."
    assert finished.returncode == 2 and kinds in finished.stderr
    finished = command("pub", "channel.design.note", "1", "--delay", "5s")
    assert finished.returncode == 2 and "schedule" in finished.stderr


def test_doctor_tells_of_logs_that_are_broken_or_nearly_full(
    command: CommandLine, broker: BrokerForTests
) -> None:
    prefix = command.environment["AGENTBUS_PREFIX"]
    for channel in ("fine", "typed", "bricked", "full"):
        command.records("pub", f"channel.{channel}.note", "1")
    with redis.Redis.from_url(broker.url) as client:
        client.set(f"{prefix}:{{channel.typed}}:log", "a string")
        client.xadd(f"{prefix}:{{channel.bricked}}:log", {"message": "x"}, id=LARGEST_ID)
        client.hset(f"{prefix}:{{channel.full}}:policy", "limit", 1)
    finished = command("doctor", "--json")
    findings = {record["subject"]: record for record in map(json.loads, finished.stdout.splitlines())}
    assert "channel.fine" not in findings
    assert findings["channel.typed"]["status"] == "bad"
    assert ":log is a string, not a stream" in findings["channel.typed"]["detail"]
    assert findings["channel.bricked"]["status"] == "bad"
    assert "1 messages of at most 1" in findings["channel.full"]["detail"]
    assert finished.returncode == 1


async def test_who_reads_a_channel_and_who_has_read_a_message_is_shown(
    command: CommandLine, broker: BrokerForTests
) -> None:
    nobody = command("channel", "show", "channel.design")
    assert nobody.returncode == 3 and "nobody ever subscribed" in nobody.stderr
    settings = BusSettings(prefix=command.environment["AGENTBUS_PREFIX"])
    agent, done = Agent("reviewer"), asyncio.Event()
    agent.on("channel.design.note")(lambda body: done.set())
    async with Bus(broker.url, agent="planner", settings=settings) as bus, bus.serving(agent):
        stored = await bus.publish("channel.design.note", 1)
        await done.wait()
        reads = await asyncio.to_thread(command, "channel", "forget", "channel.design", "reviewer")
        assert reads.returncode == 1 and "stop it first" in reads.stderr
    (shown,) = command.records("channel", "show", "channel.design")
    assert (shown["agent"], shown["behind"], shown["counts"]["processed"]) == ("reviewer", 0, 1)
    (receipt,) = command.records("channel", "receipts", "channel.design", stored.message_id)
    assert receipt["outcome"] == "processed" and receipt["read_ms"] >= receipt["delivered_ms"]
    command.records("channel", "forget", "channel.design", "reviewer")
    gone = command("channel", "forget", "channel.design", "reviewer")
    assert gone.returncode == 3 and "no cursor" in gone.stderr
    wrong = command("channel", "show", "agent.reviewer")
    assert wrong.returncode == 2 and "is an inbox" in wrong.stderr
