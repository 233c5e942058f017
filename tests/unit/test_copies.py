"""The envelope of a copy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentbus.message.copies import copied


def _copied(**fields: Any) -> dict[str, Any] | None:
    copy = copied(json.dumps({"message_id": "1", **fields}).encode(), "agent.planner.task")
    return None if copy is None else json.loads(copy.text)


def test_a_copy_keeps_everything_and_says_where_it_comes_from() -> None:
    fields = {"to_agent": "planner", "body": {"content": {"ü": [1.5, None]}}, "mine": {"kept": True}}
    assert _copied(**fields) == {"message_id": "1", **fields, "copy_of": "agent.planner.task"}


def test_a_copy_asks_for_no_answer() -> None:
    assert _copied(reply_to="reply.x.1", correlation_id="c") == {
        "message_id": "1", "correlation_id": "c", "copy_of": "agent.planner.task",
    }  # fmt: skip


def test_a_copy_gives_no_receipts() -> None:
    named = _copied(
        recipients=["planner", "writer"], recipient_mode="multi", log_entry="1-1", channel="channel.x"
    )
    assert named == {"message_id": "1", "channel": "channel.x", "copy_of": "agent.planner.task"}


@pytest.mark.parametrize(
    ("fields", "is_copied"),
    [
        ({"recipients": ["planner"]}, False),
        ({"recipients": ["planner"], "recipient_mode": "direct"}, False),
        ({"recipients": ["planner", "writer"], "recipient_mode": "multi"}, True),
        ({"recipient_mode": "direct"}, True),
        ({"recipients": []}, True),
    ],
)
def test_what_is_direct_is_never_copied(fields: dict[str, Any], is_copied: bool) -> None:
    assert (_copied(**fields) is not None) is is_copied
