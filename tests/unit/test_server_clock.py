"""Jumps of the server's clock."""

from __future__ import annotations

import pytest

from agentbus.broker.server_clock import ServerClock, jump_told


def test_a_clock_that_goes_on_has_not_jumped_however_long_answers_take() -> None:
    seen = ServerClock()
    assert seen.saw(1_000_000, 10.0, 10.1) is None
    assert seen.saw(1_001_000, 11.0, 14.9) is None
    assert seen.saw(1_005_000, 15.0, 15.1) is None
    # A second off is drift, or somebody's correction.
    assert seen.saw(1_007_000, 16.0, 16.1) is None


@pytest.mark.parametrize(("hours", "word"), [(1, "ahead"), (-1, "back")])
def test_a_jump_is_told_once_with_its_size(hours: int, word: str) -> None:
    seen = ServerClock()
    seen.saw(10_000_000, 10.0, 10.1)
    jump = seen.saw(10_001_000 + hours * 3_600_000, 11.0, 11.1)
    assert jump is not None and abs(jump - hours * 3_600) < 1
    assert word in jump_told(jump)
    assert seen.saw(10_002_000 + hours * 3_600_000, 12.0, 12.1) is None
