"""The grammar of topics."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import InvalidTopic, InvalidValue
from agentbus.message.topics import (
    Topic,
    check_message_type,
    check_name,
    conversation_of,
    is_channel,
    is_conversation,
    parse_address,
    parse_conversation_topic,
    parse_inbox,
    parse_topic,
    parties_of,
)


def test_a_topic_is_kind_name_and_type_and_further_dots_belong_to_the_type() -> None:
    found = parse_topic("agent.code-reviewer_2.task.urgent")
    assert (found.address, found.name, found.message_type) == (
        "agent.code-reviewer_2", "code-reviewer_2", "task.urgent",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "word"),
    [("agent.x", "three parts"), ("dm.x.note", "bus.dm"), ("dm:a:b.note", "bus.dm"),
     ("reply.x.note", "cannot be published"), ("channel.x", "three parts"), ("system.X.y", "is not a name"),
     ("agnt.x.y", "begins with 'agnt'"),
     ("agent.X.y", "is not a name"), ("agent.x.*", "wildcard"), ("agent.x.a b", "message type"),
     ("agent.x.y\n", "message type"), ("agent.x\n.y", "is not a name"), (None, "text"), ([], "text")],
)  # fmt: skip
def test_a_wrong_topic_is_told_what_is_wrong(topic: Any, word: str) -> None:
    with pytest.raises(InvalidTopic, match=word):
        parse_topic(topic)


@pytest.mark.parametrize("kind", ["channel", "project", "system"])
def test_channels_projects_and_system_areas_are_logs(kind: str) -> None:
    found = parse_topic(f"{kind}.announcements.pause.now")
    assert (found.address, found.name, found.message_type, found.is_channel) == (
        f"{kind}.announcements", "announcements", "pause.now", True,
    )  # fmt: skip
    assert parse_address(f"{kind}.announcements") == f"{kind}.announcements"
    assert is_channel(found.address)
    assert not is_channel(parse_topic("agent.channel.x").address)


def test_what_needs_an_inbox_says_so_for_a_channel() -> None:
    assert parse_inbox("agent.reviewer") == parse_inbox("reviewer") == "agent.reviewer"
    with pytest.raises(InvalidTopic, match=r"address: system.bus is a channel.*agent\.<name>"):
        parse_inbox("system.bus")


@pytest.mark.parametrize("kind", ["agnt", "dm", "reply", ""])
def test_an_address_of_another_kind_is_refused(kind: str) -> None:
    with pytest.raises(InvalidTopic, match=r"^address: "):
        parse_address(f"{kind}.x")


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser_or_the_hash_tag(text: str) -> None:
    try:
        address = parse_topic(f"agent.{text}").address
    except InvalidTopic:
        return
    assert not set("{}: \n*") & set(address)


def test_a_bare_name_means_an_agent() -> None:
    assert parse_address("reviewer") == parse_address("agent.reviewer") == "agent.reviewer"
    with pytest.raises(InvalidValue):
        parse_address("Reviewer")


@pytest.mark.parametrize("address", [None, 5, "", "Reviewer", "foo.bar", "channel.*", "dm:a", "dm:a:a"])
def test_what_is_no_address_names_the_field_it_was_given_for(address: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_address(address, "to")
    assert caught.value.field == "to"


def test_a_typed_topic_checks_its_text_when_it_is_made() -> None:
    assert str(Topic("agent.x.task", dict)) == "agent.x.task"
    with pytest.raises(InvalidTopic):
        Topic("agent.x", dict)


def test_names_have_at_most_sixty_three_characters() -> None:
    assert check_name("x" * 63)
    with pytest.raises(InvalidValue, match="pool: "):
        check_name("x" * 64, "pool")
    assert check_message_type("t" * 200)
    with pytest.raises(InvalidValue):
        check_message_type("t" * 201)


def test_a_conversation_is_a_log_named_after_its_two_agents_in_order() -> None:
    assert conversation_of("bob", "ann") == conversation_of("ann", "bob") == "dm:ann:bob"
    assert parse_address("dm:bob:ann") == "dm:ann:bob"
    assert is_conversation("dm:ann:bob") and is_channel("dm:ann:bob")
    assert parties_of("dm:ann:bob") == ("ann", "bob")
    found = parse_conversation_topic("dm:ann:bob.note.urgent")
    assert (found.address, found.message_type, found.is_channel) == ("dm:ann:bob", "note.urgent", True)
    assert parse_conversation_topic("agent.ann.note") == parse_topic("agent.ann.note")
    with pytest.raises(InvalidTopic, match="nobody takes work"):
        parse_inbox("dm:ann:bob")


@pytest.mark.parametrize("text", ["dm:ann", "dm:ann:ann", "dm:ann:bob:carl", "dm:Ann:bob", "dm:", "dm:a.b:c"])
def test_what_is_no_conversation_is_told_so(text: str) -> None:
    with pytest.raises(InvalidTopic) as caught:
        parse_address(text)
    assert text in str(caught.value)
