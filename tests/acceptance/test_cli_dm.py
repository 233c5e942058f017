"""``agentbus dm`` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine


def test_direct_messages_are_sent_listed_shown_and_read(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("cli"))
    (sent,) = command.records("dm", "send", "bob", "hello", "--text", "--allow-unknown", "--as", "ann")
    assert (sent["conversation"], sent["to"]) == ("dm:ann:bob", "bob")
    command.environment["AGENTBUS_AGENT"] = "bob"
    (listed,) = command.records("dm", "ls")
    assert (listed["other"], listed["unread"], listed["last"]["snippet"]) == ("ann", 1, "hello")
    said, page = command.records("dm", "show", "ann")
    assert (said["message"]["message_id"], page["complete"]) == (sent["message_id"], True)
    assert command.records("dm", "read", "ann") == [{"read": "dm:ann:bob"}]
    (tailed,) = command.records("tail", "dm:ann:bob", "--no-follow")
    assert tailed["message"]["message_id"] == sent["message_id"]
    refused = command("dm", "show", "dm:ann:bob", "--as", "eve")
    assert refused.returncode == 2 and "eve is neither of them" in refused.stderr
