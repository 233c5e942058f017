"""Parts of an answer are put in order: none twice, none of another run, and none missing without a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import PartsMissing
from agentbus.message.reply_address import PartMark
from agentbus.send.streaming import Assembly, Restarted


def taken(assembly: Assembly, run: str, number: int, *, ends: bool = False) -> bool:
    mark = PartMark(run, 1, number)
    assembly.begins_anew(mark)
    return assembly.is_next(mark, ends=ends)


@given(st.lists(st.integers(0, 4), max_size=20))
def test_whatever_is_repeated_each_part_is_taken_once_and_in_order(repeats: list[int]) -> None:
    assembly, came = Assembly(), []
    for number in range(5):
        for again in (number, *(repeat for repeat in repeats if repeat < number)):
            if taken(assembly, "a", again):
                came.append(again)
    assert came == [0, 1, 2, 3, 4]
    assert taken(assembly, "a", 5, ends=True)


@pytest.mark.parametrize(
    ("number", "ends", "words"),
    [(2, False, ": part 1 of the answer"), (4, False, ": parts 1 to 3 of the answer"),
     (3, True, ": parts 1 to 2 of the answer")],
)  # fmt: skip
def test_a_gap_is_an_error_that_names_what_is_missing(number: int, ends: bool, words: str) -> None:
    assembly = Assembly()
    assert taken(assembly, "a", 0)
    with pytest.raises(PartsMissing, match=words) as lost:
        taken(assembly, "a", number, ends=ends)
    assert (lost.value.first, lost.value.last) == (1, number - 1)


def test_parts_of_another_run_begin_anew_and_those_of_the_former_are_dropped() -> None:
    assembly = Assembly()
    assert taken(assembly, "a", 0) and taken(assembly, "a", 1)
    assert assembly.begins_anew(PartMark("b", 2, 0)) == Restarted(2, parts=2)
    assert assembly.is_next(PartMark("b", 2, 0), ends=False)
    # A frozen owner wakes up and sends what it had begun, even the end of it.
    assert not taken(assembly, "a", 2)
    assert not taken(assembly, "a", 2, ends=True)
    assert taken(assembly, "b", 1)


def test_a_run_of_which_nothing_was_yielded_is_left_without_a_mark() -> None:
    assembly = Assembly()
    assert assembly.begins_anew(PartMark("a", 1, 0)) is None
    assert assembly.begins_anew(PartMark("b", 1, 0)) is None
    with pytest.raises(PartsMissing, match="part 0"):
        taken(assembly, "c", 1)
