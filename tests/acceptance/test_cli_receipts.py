"""``agentbus receipts`` as a user meets it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from agentbus import Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine
from tests.acceptance.terminal import on_terminal


async def test_receipts_are_shown_and_waited_for(
    broker: BrokerForTests, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    prefix = unique("cli")
    command = CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=prefix)
    async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=prefix)) as bus:
        sent = await bus.send("note", 1, to=["ann", "bob"], allow_unknown=True)
        delivery = await bus.next("ann", timeout="5s")
        assert delivery is not None
        await delivery.ack()
        await sent.wait_all("stored")
        (ann,) = [row for row in await sent.status() if row.agent == "ann"]
    finished = command("receipts", sent.message_id, "--wait", "processed", "--timeout", "50ms")
    assert finished.returncode == 5
    assert "not processed within 50ms by bob" in finished.stderr
    shown, bob = command.records("receipts", sent.message_id)
    assert shown == ann.to_record() and shown["processed_at"]
    assert (bob["agent"], bob["read_at"], bob["refused"]) == ("bob", None, None)
    table = on_terminal(command, "receipts", sent.message_id, COLUMNS="80").text
    assert len(re.findall(r"\d\d:\d\d:\d\d\.\d\d\d", table)) == 5, "no time is broken into two lines"
