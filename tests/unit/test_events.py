"""Events: counted, logged, passed on."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import agentbus
from agentbus import events as module
from agentbus.events import Event, Events


def test_an_event_is_counted_logged_and_heard(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    heard: list[Event] = []
    events.listen(heard.append)
    with caplog.at_level(logging.WARNING, logger="agentbus"):
        events.emit("data_lost", "agent.x", "gone", missing=3)

    assert events.counts["data_lost"] == 1
    assert heard == [Event("data_lost", "agent.x", "gone", {"missing": 3})]
    [record] = caplog.records
    assert (record.action, record.address, record.missing) == ("data_lost", "agent.x", 3)  # type: ignore[attr-defined]


def test_a_listener_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    heard: list[Event] = []

    def fail(_: Event) -> None:
        raise RuntimeError("broken listener")

    events.listen(fail)
    stop = events.listen(heard.append)
    events.emit("fenced", "agent.x", "one")
    stop()
    events.emit("fenced", "agent.x", "two")
    assert [event.detail for event in heard] == ["one"]
    assert "broken listener" in caplog.text


def test_every_action_is_in_the_table() -> None:
    table = set(re.findall(r"^``(\w+)``", module.__doc__ or "", re.MULTILINE))
    used: set[str] = set()
    for path in Path(agentbus.__file__).parent.rglob("*.py"):
        used |= set(re.findall(r"\.emit\(\s*\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert used <= table, used - table
    assert "data_lost" in used
