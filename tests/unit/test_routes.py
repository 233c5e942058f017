"""The table of bindings, compiled: who gets copies of which topic."""

from __future__ import annotations

import json

from agentbus.bindings.routes import Copy, Routes, compiled, since_of
from agentbus.broker.bindings import Field, RawTable


def _table(
    *bindings: Field, consents: dict[Field, list[str]] | None = None, watched: tuple[str, ...] = ()
) -> Routes:
    allowed = {field: json.dumps(names).encode() for field, names in (consents or {}).items()}
    return compiled(RawTable(dict.fromkeys(bindings, b"{}"), allowed, watched, 0.0))


def test_an_empty_table_concerns_nothing() -> None:
    assert _table().empty
    assert not _table().route("agent.planner.status")
    assert not _table(watched=("agent.>",)).empty
    assert not _table(("observer", "channel.>")).empty


def test_channels_need_no_consent_and_inboxes_do() -> None:
    table = _table(("observer", "*.planner.note"), consents={("agent.writer", "writer"): ["observer"]})
    assert table.route("channel.planner.note").copies == (Copy("observer", "*.planner.note", True),)
    assert table.route("agent.planner.note").copies == (Copy("observer", "*.planner.note", False),)


def test_consent_is_to_a_name_or_to_all_and_of_whoever_serves_the_inbox() -> None:
    bound = (("archivist", "agent.>"), ("observer", "agent.>"))
    consents = {
        ("agent.planner", "planner"): ["observer"],
        ("agent.reviewers", "anna"): [],
        ("agent.reviewers", "ben"): ["*"],
    }
    table = _table(*bound, consents=consents)
    allowed = {copy.agent: copy.allowed for copy in table.route("agent.planner.task").copies}
    assert allowed == {"archivist": False, "observer": True}
    assert all(copy.allowed for copy in table.route("agent.reviewers.task").copies)


def test_an_inbox_of_a_capability_needs_a_consent_of_its_own() -> None:
    table = _table(("observer", "*.review.task"), consents={("agent.review", "review"): ["*"]})
    assert [copy.allowed for copy in table.route("agent.review.task").copies] == [True]
    assert [copy.allowed for copy in table.route("capability.review.task").copies] == [False]


def test_what_no_pattern_reaches_need_not_be_a_topic() -> None:
    table = _table(("observer", ">"), ("second", "*.>"), watched=(">",))
    for topic in ("dm:anna:ben.note", "reply.x.1", "x"):
        assert not table.route(topic)


def test_an_agent_never_gets_copies_of_its_own_inbox() -> None:
    table = _table(
        ("observer", "agent.>"), ("second", "agent.>"), consents={("agent.observer", "observer"): ["*"]}
    )
    assert [copy.agent for copy in table.route("agent.observer.task").copies] == ["second"]


def test_two_patterns_of_one_agent_make_one_copy() -> None:
    table = _table(("observer", "channel.>"), ("observer", "channel.design.*"))
    assert table.route("channel.design.note").copies == (Copy("observer", "channel.>", True),)


def test_watched_patterns_are_named_one_by_one() -> None:
    table = _table(watched=("agent.*.status", "agent.>", "nonsense", "channel.>"))
    assert table.route("agent.planner.status").mirrors == ("agent.*.status", "agent.>")


def test_what_a_hand_wrote_is_ignored_and_named() -> None:
    raw = RawTable(
        {("observer", "agent.*.status"): b"{}", ("Bad", "agent.>"): b"{}", ("observer", "x"): b"{}"},
        {("planner", "planner"): b'"observer"', ("writer", "writer"): b"{", ("a", "a"): b'["observer"]'},
        (),
        0.0,
    )
    table = compiled(raw)
    assert [(agent, pattern.text) for agent, pattern in table.bindings] == [("observer", "agent.*.status")]
    assert table.consents == {"a": frozenset({"observer"})}
    assert len(table.ignored) == 4
    assert since_of(b"nonsense") is since_of(b"[]") is since_of(b'{"since": "x"}') is None


def test_topics_that_agents_make_up_do_not_fill_the_memory() -> None:
    table = _table(("observer", "channel.>"))
    for number in range(5000):
        assert table.route(f"channel.design.note-{number}").copies
    assert len(table._known) <= 4096
