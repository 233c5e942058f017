"""The order of a conversation: causes before effects, time otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agentbus.history.conversation import Turn, in_causal_order
from agentbus.message.message import Message

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def turn(message_id: str, second: float, cause: str | None = None) -> Turn:
    envelope = {
        "message_id": message_id, "message_type": "task", "causation_id": cause,
        "timestamp": (BEGIN + timedelta(seconds=second)).isoformat(),
    }  # fmt: skip
    return Turn(Message(envelope), 0, ())


def ordered(*turns: Turn) -> list[tuple[str, int]]:
    return [(each.message.message_id, each.depth) for each in in_causal_order(turns)]


def test_no_message_comes_before_its_cause_whatever_the_clocks_say() -> None:
    assert ordered(turn("c", 1, "b"), turn("b", 5, "a"), turn("a", 9)) == [("a", 0), ("b", 1), ("c", 2)]


def test_what_nothing_orders_is_ordered_by_time() -> None:
    found = ordered(turn("a", 0), turn("b", 3, "a"), turn("c", 2, "a"), turn("d", 2.5, "c"), turn("e", 1))
    assert found == [("a", 0), ("e", 0), ("c", 1), ("d", 2), ("b", 1)]


def test_a_circle_of_causes_and_causes_that_are_not_there_hide_nothing() -> None:
    circle = (turn("b", 2, "a"), turn("a", 1, "b"), turn("own", 3, "own"), turn("late", 0, "gone"))
    assert ordered(*circle) == [("late", 0), ("own", 0), ("a", 0), ("b", 1)]
