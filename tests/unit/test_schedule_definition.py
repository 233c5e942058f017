"""What is stored of a schedule, and what its ticks say."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from agentbus.errors import InvalidValue
from agentbus.message.codec import decode
from agentbus.schedules.definition import Definition, template_of
from agentbus.schedules.schedule import split_id
from agentbus.schedules.template import filled

ENVELOPE: dict[str, Any] = {
    "version": 1, "message_id": "made-anew", "message_type": "task", "to_agent": "x",
    "timestamp": "2026-11-21T00:00:00Z", "body": {"content": {"n": "{{tick_number}}"}}, "ttl": 1.5,
}  # fmt: skip


def definition(body: Any = None) -> Definition:
    envelope = ENVELOPE if body is None else {**ENVELOPE, "body": body}
    return Definition(
        topic="agent.x.task", schedule="interval:60", timezone="UTC", owner="planner", created_at=1_000,
        expires_at=None, misfire="once", grace_ms=60_000, lane=2, message=template_of(orjson.dumps(envelope)),
    )  # fmt: skip


def test_a_definition_survives_being_stored_with_numbers_that_lua_cannot_keep() -> None:
    body = {"content": {"big": 2**62 + 1, "small": 0.1 + 0.2, "empty": [], "none": None, "text": "é"}}
    stored = definition(body)
    assert Definition.from_json(stored.to_json()) == stored
    content = decode(stored.message_at("agent.x:a", 61_000, 1)).content
    assert content == body["content"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"nonsense", b'{"topic": 1}'])
def test_what_somebody_wrote_by_hand_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidValue, match="holds what is no schedule"):
        Definition.from_json(text)


def test_the_id_of_a_message_follows_from_schedule_and_tick() -> None:
    ids = {
        decode(made.message_at(schedule, tick, 1)).message_id
        for made in (definition(), replace(definition(), created_at=2_000))
        for schedule in ("agent.x:a", "agent.x:b")
        for tick in (61_000, 121_000)
        for _again in range(2)
    }
    assert len(ids) == 8


def test_values_are_filled_into_every_text_and_a_whole_placeholder_keeps_its_type() -> None:
    body = {
        "content": {
            "whole": "{{tick_number}}", "inside": "run {{ tick_number }} of {{schedule_id}}",
            "deep": [{"at": "{{tick_time}}"}], "{{tick_number}}": "{{other}}", "left": 5,
        },
        "metadata": {"n": "{{tick_number}}"}, "context": {"s": "{{schedule_id}}"},
    }  # fmt: skip
    message = decode(definition(body).message_at("agent.x:a", 61_000, 7))
    assert message.content == {
        "whole": 7, "inside": "run 7 of agent.x:a", "deep": [{"at": "1970-01-01T00:01:01Z"}],
        "{{tick_number}}": "{{other}}", "left": 5,
    }  # fmt: skip
    assert (message.metadata, message.context) == ({"n": 7}, {"s": "agent.x:a"})


def test_what_was_filled_in_is_not_filled_again() -> None:
    assert filled("{{a}}{{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}}x"


def test_bytes_are_nobodys_template() -> None:
    content = base64.b64encode(b"{{tick_number}}").decode()
    body = {"content": content, "content_encoding": "base64", "metadata": {"n": "{{tick_number}}"}}
    message = decode(definition(body).message_at("agent.x:a", 61_000, 7))
    assert (message.content, message.metadata) == (b"{{tick_number}}", {"n": 7})


def test_the_same_again_is_the_same_and_another_body_is_not() -> None:
    assert definition().is_same(replace(definition(), created_at=9))
    assert not definition().is_same(definition({"content": 1}))
    assert definition().ttl_ms == 1_500


@pytest.mark.parametrize(
    "wrong", ["nightly", "reviewer:nightly", "agent.x:", "agent.x:UP", "foo.x:a", "", None]
)
def test_what_is_no_id_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidValue):
        split_id(wrong)


def test_an_id_says_where_its_schedule_is() -> None:
    assert split_id("agent.x:nightly") == ("agent.x", "nightly")
    assert split_id("channel.ops:a-1") == ("channel.ops", "a-1")
