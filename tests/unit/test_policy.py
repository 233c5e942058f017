"""Priorities, retries, levels of durability."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.errors import InvalidValue
from agentbus.message.address_policy import Policy
from agentbus.message.policy import ALLOWANCE_MS, PRIORITIES, Retry, check_durability, check_priority


def test_priorities_are_numbered_in_serving_order_with_growing_allowance() -> None:
    assert [check_priority(priority) for priority in PRIORITIES] == [0, 1, 2, 3, 4]
    allowances = [ALLOWANCE_MS[priority] for priority in PRIORITIES]
    assert allowances == sorted(allowances)


@pytest.mark.parametrize("value", ["urgent", None, 1, [], "High"])
def test_no_other_priority_or_level_exists(value: Any) -> None:
    with pytest.raises(InvalidValue, match="priority: "):
        check_priority(value)
    with pytest.raises(InvalidValue, match="durability: "):
        check_durability(value)


@given(st.integers(1, 2000), st.floats(0, 1000), st.floats(0, 1))
def test_a_delay_stays_within_its_bounds(attempt: int, base: float, luck: float) -> None:
    retry = Retry(retry_delay=base)
    delay = retry.delay_seconds(attempt, lambda low, high: low + luck * (high - low))
    assert min(1.0, base) <= delay <= max(600.0, base)


def test_delays_double_up_to_the_cap() -> None:
    highest = [Retry(retry_delay="30s").delay_seconds(n, lambda low, high: high) for n in range(1, 8)]
    assert highest == [30, 60, 120, 240, 480, 600, 600]


def test_a_smaller_explicit_delay_lowers_the_floor() -> None:
    assert Retry(retry_delay="100ms").delay_seconds(1, lambda low, high: low) == 0.1
    assert Retry(retry_delay=0).delay_seconds(5) == 0


@pytest.mark.parametrize(
    ("values", "field"),
    [({"max_retries": -1}, "max_retries"), ({"max_retries": 1.5}, "max_retries"),
     ({"max_retries": True}, "max_retries"), ({"retry_delay": "soon"}, "retry_delay"),
     ({"longest_delay": -1}, "longest_delay"), ({"when_exhausted": "drop"}, "when_exhausted")],
)  # fmt: skip
def test_a_retry_that_cannot_work_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        Retry(**values)
    assert raised.value.field == field


def test_a_window_of_nothing_is_no_way_to_take_a_limit_away() -> None:
    with pytest.raises(InvalidValue, match="loop_window: must be longer than zero; loop_messages=0"):
        Policy(loop_window=0)
