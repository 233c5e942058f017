"""The judgement about who is dead: pure, with a clock of its own."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from agentbus.receive.liveness import Observations, Vigil

LEASE = 4.0
LOOK = 0.5


class Observer:
    """One process that watches one address, with sound looks unless told otherwise."""

    def __init__(self) -> None:
        self.vigil = Vigil(LEASE)
        self._seen = Observations(LEASE)

    def look(self, now: float, beats: Mapping[str, str]) -> list[tuple[str, str]]:
        self.vigil.tick(now)
        self.vigil.saw(now)
        return self._seen.look(now, beats, self.vigil.since)


def test_a_beat_that_stood_still_for_a_whole_lease_means_dead() -> None:
    seen = Observer()
    verdicts = [seen.look(step * LOOK, {"a": "7 0 serving"}) for step in range(9)]
    assert verdicts[:8] == [[]] * 8
    assert verdicts[8] == [("a", "7 0 serving")]


def test_a_beat_that_moves_is_alive_for_ever() -> None:
    seen = Observer()
    assert not any(seen.look(step * LOOK, {"a": f"{step // 6} 0 serving"}) for step in range(200))


def test_a_fresh_observer_waits_a_whole_lease_before_its_first_verdict() -> None:
    seen = Observer()
    assert seen.look(1000.0, {"a": "7"}) == []
    assert seen.look(1000.0 + LEASE / 2, {"a": "7"}) == []


def test_doubt_begins_the_wait_anew_at_the_next_sound_look() -> None:
    seen = Observer()
    for step in range(8):
        assert seen.look(step * LOOK, {"a": "7"}) == []
    seen.vigil.doubt()
    for step in range(8, 16):
        assert seen.look(step * LOOK, {"a": "7"}) == []
    assert seen.look(16 * LOOK, {"a": "7"}) == [("a", "7")]


def test_an_observer_that_stood_still_itself_judges_nobody() -> None:
    seen = Observer()
    assert seen.look(0.0, {"a": "7"}) == []
    assert seen.look(100.0, {"a": "7"}) == []
    assert seen.look(100.0 + LEASE / 2, {"a": "7"}) == []


def test_one_that_comes_to_an_address_seldom_but_never_stood_still_may_judge() -> None:
    """A worker that walks over ten thousand addresses is back after longer than half a lease."""
    seen = Observer()
    assert seen.look(0.0, {"a": "7"}) == []
    for step in range(1, 12):
        seen.vigil.tick(step * LOOK)
    assert seen.look(12 * LOOK, {"a": "7"}) == [("a", "7")]


def test_one_that_comes_seldom_and_stood_still_in_between_judges_nobody() -> None:
    seen = Observer()
    assert seen.look(0.0, {"a": "7"}) == []
    seen.vigil.tick(LOOK)
    seen.vigil.tick(5.5)
    assert seen.look(6.0, {"a": "7"}) == []


def test_without_a_sound_look_after_a_doubt_nobody_is_dead() -> None:
    seen, vigil = Observations(LEASE), Vigil(LEASE)
    vigil.saw(0.0)
    assert seen.look(0.0, {"a": "7"}, vigil.since) == []
    vigil.doubt()
    assert seen.look(100.0, {"a": "7"}, vigil.since) == []


def test_a_name_that_went_and_came_back_is_new() -> None:
    seen = Observer()
    for step in range(8):
        seen.look(step * LOOK, {"a": "7"})
    seen.look(8 * LOOK - 0.1, {})
    assert seen.look(8 * LOOK, {"a": "7"}) == []


def test_a_consumer_with_a_longer_lease_is_given_its_time_and_one_with_a_shorter_the_observers() -> None:
    seen, found = Observer(), dict[str, float]()
    beats = {
        "patient": "7 0 serving 9000",
        "hasty": "7 0 serving 500",
        "old": "7 0 serving",
        "odd": "7 0 a b",
    }
    for step in range(20):
        for name, _ in seen.look(step * LOOK, beats):
            found.setdefault(name, step * LOOK)
    assert found == {"hasty": LEASE, "old": LEASE, "odd": LEASE, "patient": 9.0}


def test_only_the_dead_one_among_many_is_named() -> None:
    seen = Observer()
    found = []
    for step in range(12):
        found += seen.look(step * LOOK, {"dead": "3", **{f"live-{n}": str(step) for n in range(50)}})
    assert {name for name, _ in found} == {"dead"}


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_nobody_is_dead_whose_beat_moved_within_a_lease_and_nobody_within_one_of_a_doubt(
    steps: list[tuple[float, bool, bool]],
) -> None:
    seen, now, beat, moved_at, doubted_at = Observer(), 0.0, 0, 0.0, 0.0
    for pause, moves, doubts in steps:
        now += pause
        if moves:
            beat, moved_at = beat + 1, now
        if doubts:
            seen.vigil.doubt()
        if doubts or pause > LEASE / 2:
            doubted_at = now
        if seen.look(now, {"a": str(beat)}):
            assert now - max(moved_at, doubted_at) >= LEASE
