"""``agentbus`` on an inbox by capability: it is an inbox wherever one is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentbus import Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine


async def test_an_inbox_by_capability_is_sent_to_looked_at_and_never_taken_from_by_hand(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    prefix = unique("p")
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=prefix)
    async with Bus(broker.url, settings=BusSettings(prefix=prefix)) as bus:
        await bus.publish("capability.review.question", "ready?")
    refused = command("pub", "capability.review.question", '"ready?"', "--strict")
    assert refused.returncode == 3 and "capability 'review'" in refused.stderr
    (seen,) = command.records("tail", "capability.review.question", "--no-follow")
    assert seen["message"]["capability"] == "review"
    doctor = command("doctor")
    assert "capability.review" in doctor.stdout and "nobody has ever served it" in doctor.stdout
    taking = command("sub", "capability.review", "--count", "1")
    assert taking.returncode == 2 and "capabilities=['review']" in taking.stderr
