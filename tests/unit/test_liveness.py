"""The judgement about who is dead: pure, with a clock of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentbus.receive.liveness import Observations

LEASE = 4.0
LOOK = 0.5


def test_a_beat_that_stood_still_for_a_whole_lease_means_dead() -> None:
    seen = Observations(LEASE)
    verdicts = [seen.look(step * LOOK, {"a": "7 0 serving"}) for step in range(9)]
    assert verdicts[:8] == [[]] * 8
    assert verdicts[8] == [("a", "7 0 serving")]


def test_a_beat_that_moves_is_alive_for_ever() -> None:
    seen = Observations(LEASE)
    assert not any(seen.look(step * LOOK, {"a": f"{step // 6} 0 serving"}) for step in range(200))


def test_a_fresh_observer_waits_a_whole_lease_before_its_first_verdict() -> None:
    seen = Observations(LEASE)
    assert seen.look(1000.0, {"a": "7"}) == []
    assert seen.look(1000.0 + LEASE / 2, {"a": "7"}) == []


def test_doubt_begins_the_wait_anew() -> None:
    seen = Observations(LEASE)
    for step in range(8):
        assert seen.look(step * LOOK, {"a": "7"}) == []
    seen.doubt()
    for step in range(8, 16):
        assert seen.look(step * LOOK, {"a": "7"}) == []
    assert seen.look(16 * LOOK, {"a": "7"}) == [("a", "7")]


def test_an_observer_that_stood_still_itself_judges_nobody() -> None:
    seen = Observations(LEASE)
    assert seen.look(0.0, {"a": "7"}) == []
    assert seen.look(100.0, {"a": "7"}) == []
    assert seen.look(100.0 + LEASE / 2, {"a": "7"}) == []


def test_a_name_that_went_and_came_back_is_new() -> None:
    seen = Observations(LEASE)
    for step in range(8):
        seen.look(step * LOOK, {"a": "7"})
    seen.look(8 * LOOK - 0.1, {})
    assert seen.look(8 * LOOK, {"a": "7"}) == []


def test_only_the_dead_one_among_many_is_named() -> None:
    seen = Observations(LEASE)
    found = []
    for step in range(12):
        found += seen.look(step * LOOK, {"dead": "3", **{f"live-{n}": str(step) for n in range(50)}})
    assert {name for name, _ in found} == {"dead"}


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_nobody_is_dead_whose_beat_moved_within_a_lease_and_nobody_within_one_of_a_doubt(
    steps: list[tuple[float, bool, bool]],
) -> None:
    seen, now, beat, moved_at, doubted_at = Observations(LEASE), 0.0, 0, 0.0, 0.0
    for pause, moves, doubts in steps:
        now += pause
        if moves:
            beat, moved_at = beat + 1, now
        if doubts:
            seen.doubt()
            doubted_at = now
        if seen.look(now, {"a": str(beat)}):
            assert now - max(moved_at, doubted_at) >= LEASE
