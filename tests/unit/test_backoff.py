"""Pauses between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentbus.message.backoff import Backoff


def test_ceilings_double_up_to_the_longest() -> None:
    backoff = Backoff(first=0.05, longest=2.0, uniform=lambda low, high: high)
    assert [backoff.next_pause() for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_fleet_does_not_come_back_in_one_instant() -> None:
    pauses = set()
    for _ in range(100):
        backoff = Backoff()
        for _ in range(6):
            backoff.next_pause()
        pauses.add(round(backoff.next_pause(), 3))
    assert len(pauses) > 50


@given(st.integers(0, 5000))
def test_no_number_of_failures_overflows(failures: int) -> None:
    backoff = Backoff()
    backoff.failures = failures
    assert 0 <= backoff.next_pause() <= 2.0
    assert backoff.failures == failures + 1


def test_a_success_begins_anew() -> None:
    backoff = Backoff(uniform=lambda low, high: high)
    for _ in range(5):
        backoff.next_pause()
    backoff.reset()
    assert backoff.next_pause() == 0.05
