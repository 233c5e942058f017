"""Envelopes to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agentbus.errors import AgentBusError, BodyNotSerializable, BodyTooLarge, MalformedMessage
from agentbus.message.codec import check_body_type, decode, encode, encode_body, validate_content


class Inner(BaseModel):
    value: float


@dataclass
class Plain:
    value: Any


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def sealed(body: Any) -> bytes:
    envelope = {
        "message_id": "m",
        "message_type": "t",
        "from_agent": None,
        "body": encode_body(body, None, None),
    }
    return encode(envelope, 10_000_000)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60, deadline=None)
@given(JSON)
def test_every_json_value_comes_back_as_it_was(value: Any) -> None:
    assert decode(sealed(value)).content == value


@given(st.binary(max_size=200))
def test_bytes_come_back_as_bytes(value: bytes) -> None:
    assert decode(sealed(value)).content == value


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "wrap",
    [lambda n: n, lambda n: [None, n], lambda n: {"a": {"b": (n,)}}, lambda n: Plain([n]),
     lambda n: Inner(value=n), lambda n: [Inner(value=n)]],
    ids=["bare", "list", "nested", "dataclass", "model", "model in a list"],
)  # fmt: skip
def test_a_number_that_json_does_not_have_is_refused_and_not_made_null(number: float, wrap: Any) -> None:
    with pytest.raises(BodyNotSerializable, match="body"):
        sealed(wrap(number))


def test_null_and_the_word_null_are_fine() -> None:
    for body in (None, "null", {"null": None}, [None, 1.5, "null"]):
        assert decode(sealed(body)).content == body


@pytest.mark.parametrize("field", ["trace", "context", "metadata", "mine"])
def test_the_field_that_is_not_json_is_named(field: str) -> None:
    bad = {"x": object()}
    options = {name: bad if name == field else None for name in ("context", "metadata")}
    envelope = {"body": encode_body(1, options["context"], options["metadata"])}
    if field not in options:
        envelope[field] = bad
    with pytest.raises(BodyNotSerializable) as raised:
        encode(envelope, 1000)
    assert raised.value.field == field


def test_the_limit_is_exact() -> None:
    size = len(sealed("x"))
    envelope = {"message_id": "m", "message_type": "t", "from_agent": None, "body": {"content": "x"}}
    assert encode(envelope, size)
    with pytest.raises(BodyTooLarge, match=f"{size:,} bytes; the limit is {size - 1:,}"):
        encode(envelope, size - 1)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(text: bytes) -> None:
    try:
        decode(text)
    except MalformedMessage as error:
        assert error.field


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60, deadline=None)
@given(st.dictionaries(
    st.sampled_from(["message_id", "message_type", "version", "priority", "body", "delivery", "trace", "ttl",
                     "timestamp", "recipients", "from_agent", "reply_to"]), JSON))  # fmt: skip
def test_no_envelope_breaks_the_decoder(envelope: dict[str, Any]) -> None:
    try:
        message = decode(json.dumps(envelope).encode())
    except MalformedMessage:
        return
    assert message.message_id
    assert message.content is None or message.content is not None
    assert message.timestamp is None or message.timestamp.tzinfo is not None
    assert all(isinstance(name, str) for name in message.recipients)
    assert message.ttl is None or message.ttl >= 0
    assert repr(message)


def test_fields_of_later_versions_are_kept() -> None:
    text = b'{"message_id":"m","message_type":"t","later":{"x":1}}'
    assert decode(text).envelope["later"] == {"x": 1}


def test_a_wrong_content_is_named_by_its_place() -> None:
    with pytest.raises(MalformedMessage) as raised:
        validate_content({"value": "much"}, Inner)
    assert raised.value.field == "body.content.value"


def test_a_typed_end_takes_what_fits_and_nothing_else() -> None:
    check_body_type(Inner(value=1), Inner)
    check_body_type({"value": 1}, Inner)
    for wrong in (5, None, {"other": 1}, "text"):
        with pytest.raises(AgentBusError, match="Inner"):
            check_body_type(wrong, Inner)
