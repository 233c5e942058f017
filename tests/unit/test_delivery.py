"""A delivery's state, as scripts and other people's hands write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.receive.delivery import decode_state


@pytest.mark.parametrize("text", [b"", b"x", b"[]", b"7", b"null", b'"attempt"', b"[" * 100_000])
def test_what_is_no_object_reads_as_absent(text: bytes) -> None:
    assert decode_state(text) == {}


@pytest.mark.parametrize("value", ['"x"', "null", "[]", "{}", "NaN", "1e999", "-1", "1e30"])
@pytest.mark.parametrize("field", ["attempt", "crashes", "bounces", "expires"])
def test_a_count_of_the_wrong_type_reads_as_absent(field: str, value: str) -> None:
    assert decode_state(f'{{"{field}":{value},"lane":"high"}}'.encode()) == {"lane": "high"}


def test_a_good_state_is_kept_as_it_is() -> None:
    assert decode_state(b'{"attempt":2,"expires":1.5e12,"mine":[1]}') == {
        "attempt": 2,
        "expires": 1.5e12,
        "mine": [1],
    }


@given(st.binary(max_size=200))
def test_no_bytes_raise(text: bytes) -> None:
    assert isinstance(decode_state(text), dict)
