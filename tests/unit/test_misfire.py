"""What happens to ticks that nobody was there to send."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbus.errors import InvalidValue
from agentbus.schedules.misfire import Calendar, Misfire, Step
from agentbus.schedules.spec import Interval

SECOND, MINUTE = 1_000, 60_000


def calendar(misfire: str, every_ms: int = MINUTE, expires_ms: int | None = None) -> Calendar:
    return Calendar(Interval(0, every_ms), expires_ms, Misfire.parse(misfire), grace_ms=30 * SECOND)


def sent(steps: list[Step]) -> list[int]:
    return [step.sent_ms // MINUTE for step in steps if step.sent_ms is not None]


def test_a_tick_in_time_is_sent_whatever_the_policy_says() -> None:
    for policy in ("skip", "once", "all:3"):
        assert calendar(policy).plan(5 * MINUTE, 5 * MINUTE + 30 * SECOND) == [
            Step(5 * MINUTE, 6 * MINUTE, 5 * MINUTE, 0, 0)
        ]


@pytest.mark.parametrize(
    ("policy", "numbers", "passed"),
    [
        ("skip", [10], 5),
        ("once", [9, 10], 4),
        ("all:3", [7, 8, 9, 10], 2),
        ("all:99", [5, 6, 7, 8, 9, 10], 0),
    ],
)
def test_missed_ticks_get_what_their_policy_says_and_the_one_in_time_its_own(
    policy: str, numbers: list[int], passed: int
) -> None:
    # Five were missed, minutes 5 to 9; the one of minute 10 is ten seconds late.
    steps = calendar(policy).plan(5 * MINUTE, 10 * MINUTE + 10 * SECOND)
    assert sent(steps) == numbers
    assert sum(step.passed for step in steps) == passed
    assert steps[0].expected_ms == 5 * MINUTE and steps[-1].next_ms == 11 * MINUTE
    for before, after in pairwise(steps):
        assert before.next_ms == after.expected_ms


def test_with_nothing_left_to_send_the_ticks_are_passed_over() -> None:
    assert calendar("skip").plan(5 * MINUTE, 9 * MINUTE + 40 * SECOND) == [
        Step(5 * MINUTE, 10 * MINUTE, None, 5, 0)
    ]


def test_missed_ticks_before_the_expiry_count_and_the_last_one_ends_it() -> None:
    steps = calendar("all:9", expires_ms=7 * MINUTE).plan(5 * MINUTE, 60 * MINUTE)
    assert sent(steps) == [5, 6, 7] and steps[-1].next_ms is None
    assert calendar("skip", expires_ms=7 * MINUTE).plan(5 * MINUTE, 60 * MINUTE) == [
        Step(5 * MINUTE, None, None, 3, 0)
    ]


@settings(deadline=None, max_examples=40)
@given(
    policy=st.sampled_from(["skip", "once", "all:1", "all:7", "all:1000"]),
    first=st.integers(1, 50),
    late=st.integers(0, 4_500),
    extra=st.integers(0, 59_999),
    expires=st.none() | st.integers(60, 5_000),
)
def test_plan_after_plan_every_tick_is_sent_or_passed_over_once(
    policy: str, first: int, late: int, extra: int, expires: int | None
) -> None:
    found = calendar(policy, expires_ms=None if expires is None else expires * MINUTE)
    now, tick, numbers, number = (first + late) * MINUTE + extra, first * MINUTE, [], first
    while tick is not None and tick <= now:
        for step in found.plan(tick, now):
            assert step.expected_ms == tick
            number += step.passed
            if step.sent_ms is not None:
                assert step.sent_ms == number * MINUTE, "number and time of a tick belong together"
                numbers.append(number)
                number += 1
            tick = step.next_ms
    last = first + late if expires is None else min(first + late, expires)
    assert number == last + 1
    missed = [n for n in range(first, last + 1) if now - n * MINUTE > found.grace_ms]
    in_time = [n for n in range(first, last + 1) if n not in set(missed)]
    assert numbers == missed[max(0, len(missed) - found.misfire.most) :] + in_time


@pytest.mark.parametrize("text", ["", "twice", "all", "all:0", "all:-1", "all:1001", "all:x", None])
def test_an_unknown_policy_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"misfire: .* is not skip, once or all:<most>"):
        Misfire.parse(text)
