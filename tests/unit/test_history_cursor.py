"""Cursors and queries of the history: what they accept, and what they refuse."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus import InvalidValue
from agentbus.history.cursor import Cursor, decode_cursor
from agentbus.history.query import HistoryFilters, new_query

QUERY = new_query("agent.reviewer", {})
_number = st.integers(-1, 2**63)


def encoded(fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


@given(
    stage=st.sampled_from(QUERY.stages),
    point=st.one_of(st.none(), st.tuples(_number, _number, _number)),
    top=st.one_of(st.none(), st.tuples(_number, _number)),
    limits=st.tuples(st.one_of(st.none(), _number), st.one_of(st.none(), _number)),
)
def test_a_cursor_comes_back_as_it_was(
    stage: str,
    point: tuple[int, int, int] | None,
    top: tuple[int, int] | None,
    limits: tuple[int | None, ...],
) -> None:
    cursor = Cursor(stage, point, top, limits[0], limits[1])
    text = cursor.encode(QUERY)
    assert decode_cursor(text, QUERY) == cursor
    assert text.isascii() and not set(text) & set("+/= \n")


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="cursor: "):
        decode_cursor(text, QUERY)


@pytest.mark.parametrize(
    "change",
    [
        {0: 2}, {1: "another"}, {2: "nowhere"}, {2: None}, {2: []}, {3: [1, 2]}, {3: "x"}, {3: [1, 2, "3"]},
        {4: [1]}, {4: [1.5, 2]}, {4: [True, 1]}, {5: "1"}, {6: [1]},
    ],
)  # fmt: skip
def test_a_damaged_cursor_is_refused(change: dict[int, object]) -> None:
    fields: list[object] = [1, QUERY.digest, "ended", [1, 2, 3], [1, 2], None, None]
    decode_cursor(encoded(fields), QUERY)
    for index, value in change.items():
        fields[index] = value
    with pytest.raises(InvalidValue, match="cursor: "):
        decode_cursor(encoded(fields), QUERY)


@pytest.mark.parametrize("fields", [None, 1, "text", {}, [], [1], [1] * 8])
def test_json_of_another_shape_is_no_cursor(fields: object) -> None:
    with pytest.raises(InvalidValue, match=r"cursor: .* is none"):
        decode_cursor(encoded(fields), QUERY)


def test_every_filter_makes_another_query() -> None:
    filters: list[HistoryFilters] = [
        {}, {"since": "2h"}, {"until": "2h"}, {"type": "task"}, {"sender": "task"}, {"grep": "task"},
        {"state": "dead"}, {"outcome": "expired"}, {"oldest_first": True},
    ]  # fmt: skip
    digests = [new_query("agent.reviewer", one).digest for one in filters]
    digests.append(new_query("agent.other", {}).digest)
    assert len(set(digests)) == len(digests)


def test_a_time_ago_is_the_same_query_at_each_page_and_keeps_its_time() -> None:
    first, second = (new_query("agent.reviewer", {"since": "2h"}) for _ in range(2))
    assert first.digest == second.digest
    cursor = Cursor("ended", (1, 2, 3), None, first.since_ms, None)
    assert decode_cursor(cursor.encode(first), second).since_ms == first.since_ms


def test_filters_left_out_and_filters_of_none_are_the_same_query() -> None:
    given: HistoryFilters = {"since": None, "type": None, "oldest_first": False}
    assert replace(new_query("agent.reviewer", given)) == QUERY
