"""Patterns over topics: what matches, and what is no pattern."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import InvalidTopic
from agentbus.message.patterns import parse_pattern


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("agent.planner.status", "agent.planner.status", True),
        ("agent.planner.status", "agent.planner.status.low", False),
        ("agent.*.status", "agent.planner.status", True),
        ("agent.*.status", "agent.planner.status.low", False),
        ("agent.*.status", "agent.planner.task", False),
        ("agent.*.status", "channel.planner.status", False),
        ("*.planner.status", "channel.planner.status", True),
        ("*.planner.status", "channel.planner-2.status", False),
        ("agent.planner.*.low", "agent.planner.status.low", True),
        ("agent.planner.*.low", "agent.planner.low", False),
        ("agent.planner.>", "agent.planner.status", True),
        ("agent.planner.>", "agent.planner.status.low.3", True),
        ("agent.planner.status.>", "agent.planner.status", False),
        ("agent.>", "agent.planner.status", True),
        ("agent.>", "channel.design.note", False),
        ("capability.*.task", "capability.review.task", True),
        ("agent.>", "capability.review.task", False),
        ("agent.*.>", "agent.planner.task.urgent", True),
        ("project.demo.*.>", "project.demo.task", False),
        # Dots and dashes of a pattern stand for themselves.
        ("agent.a-b.status", "agent.a-b.status", True),
        ("agent.a-b.status", "agent.axb.status", False),
    ],
)
def test_a_star_is_one_part_and_an_arrow_is_the_rest(pattern: str, topic: str, matches: bool) -> None:
    assert parse_pattern(pattern).matches(topic) is matches


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("", "empty part"),
        ("agent..status", "empty part"),
        ("agent.planner.", "empty part"),
        (".planner.status", "empty part"),
        ("agents.*.status", "begins with 'agents'"),
        ("dm.*.status", "begins with 'dm'"),
        ("agent.>.status", "only come last"),
        ("agent.plan*.status", "a part by itself"),
        ("agent.*.status>", "a part by itself"),
        ("agent.*", "three parts"),
        ("agent", "three parts"),
        ("agent.Planner.status", "'Planner' is not a name"),
        ("agent.{x}.status", "is not a name"),
        ("agent.*.a b", "is not a message type"),
        ("agent.*." + "x" * 300, "characters"),
        (7, "must be text"),
        (">", "matches everything"),
        ("*.>", "matches everything"),
        ("*.*.*", "matches everything"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_part_at_fault(pattern: str, complaint: str) -> None:
    with pytest.raises(InvalidTopic, match=r"^pattern: ") as caught:
        parse_pattern(pattern)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("pattern", [">", "*.>", "*.*.>"])
def test_everything_can_be_meant(pattern: str) -> None:
    assert parse_pattern(pattern, everything=True).matches("system.bus.status")


@pytest.mark.parametrize("pattern", [">", "*.>", "*.a-b.note"])
def test_a_wildcard_never_reaches_direct_messages_and_answers(pattern: str) -> None:
    found = parse_pattern(pattern, everything=True)
    assert found.matches("channel.a-b.note")
    assert not found.matches("dm.a-b.note")
    assert not found.matches("reply.a-b.note")


def test_a_pattern_is_compiled_once() -> None:
    assert parse_pattern("agent.*.status") is parse_pattern("agent.*.status")


_PART = st.sampled_from(["a", "b", "status", "x-1"])


def _by_hand(pattern: list[str], topic: list[str]) -> bool:
    """The grammar once more, as slowly as one can say it."""
    if not pattern:
        return not topic
    if pattern[0] == ">":
        return len(topic) >= 1
    return bool(topic) and pattern[0] in ("*", topic[0]) and _by_hand(pattern[1:], topic[1:])


@given(
    st.lists(st.one_of(_PART, st.just("*")), min_size=2, max_size=4),
    st.booleans(),
    st.lists(_PART, min_size=2, max_size=5),
)
def test_patterns_match_as_the_grammar_says(parts: list[str], rest: bool, topic: list[str]) -> None:
    pattern = ["agent", *parts, *([">"] if rest else [])]
    matches = parse_pattern(".".join(pattern)).matches(".".join(["agent", *topic]))
    assert matches is _by_hand(pattern, ["agent", *topic])
