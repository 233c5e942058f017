"""Reply addresses say what their asker can take, and marks put parts in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.message.reply_address import PartMark, ReplyAddress, Wants


@pytest.mark.parametrize(
    ("text", "wants"),
    [("reply.ab12.7", Wants.ONE), ("reply.ab12.7.all", Wants.ALL), ("reply.ab12.7.parts", Wants.PARTS)],
)
def test_an_address_says_what_its_asker_can_take(text: str, wants: Wants) -> None:
    address = ReplyAddress.parse(text)
    assert address == ReplyAddress("ab12", 7, wants)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [None, "", "reply.ab12", "reply.ab12.x", "reply.ab12.7.one", "reply.ab12.7.some", "agent.a.task",
     "reply.a}b.7", "reply.ab12.7.all\n"],
)  # fmt: skip
def test_a_text_that_is_no_reply_address_is_none(text: str | None) -> None:
    assert ReplyAddress.parse(text) is None


@given(st.dictionaries(st.sampled_from(["run", "attempt", "number", "x"]), st.text() | st.integers()))
def test_a_mark_comes_back_as_it_was_and_nonsense_is_none(field: dict[str, Any]) -> None:
    mark = PartMark("r", 2, 5)
    assert PartMark.of({"part": mark.to_field()}) == mark
    found = PartMark.of({"part": field})
    assert found == PartMark() or found.to_field() == {name: field[name] for name in found.to_field()}
    assert PartMark.of({}) == PartMark.of({"part": "three"}) == PartMark()
