"""``agentbus`` on an inbox by capability: it is an inbox wherever one is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine


def test_an_inbox_by_capability_is_sent_to_looked_at_and_never_taken_from_by_hand(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("p"))
    (stored,) = command.records("pub", "capability.review.question", '"ready?"')
    assert (stored["address"], stored["known"]) == ("capability.review", False)
    refused = command("pub", "capability.review.question", '"ready?"', "--strict")
    assert refused.returncode == 3 and "capability 'review'" in refused.stderr

    (inbox,) = command.records("inbox", "capability.review")
    assert (inbox["address"], inbox["waiting"], inbox["ledger"]["closes"]) == ("capability.review", 1, True)
    (seen,) = command.records("tail", "capability.review.question", "--no-follow")
    assert seen["message"]["capability"] == "review"
    doctor = command("doctor")
    assert "capability.review" in doctor.stdout and "nobody has ever served it" in doctor.stdout

    taking = command("sub", "capability.review", "--count", "1")
    assert taking.returncode == 2 and "capabilities=['review']" in taking.stderr
