"""The loop's own look at its lease: cancel first, ask later."""

from __future__ import annotations

import pytest

from agentbus.receive import lease as module
from agentbus.receive.lease import Lease


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, to be set by the test."""
    time = [1000.0]
    monkeypatch.setattr(module, "clock", lambda: time[0])
    return time


def lease(lost: list[str], busy: bool = True) -> Lease:
    return Lease("consumer", (), 4.0, 600.0, lost.append, lambda: busy)


def test_it_holds_as_long_as_an_answered_beat_is_younger_than_the_lease(now: list[float]) -> None:
    held = lease([])
    held.answered(1000.0, 0)
    now[0] = 1003.9
    assert held.holds
    now[0] = 1004.0
    assert not held.holds
    held.answered(1003.9, 0)
    assert held.holds


def test_an_answer_counts_from_when_the_beat_was_sent(now: list[float]) -> None:
    held = lease([])
    now[0] = 1010.0
    held.answered(1005.0, 0)
    assert not held.holds


def test_a_process_that_stood_still_for_a_lease_gives_up_without_asking(now: list[float]) -> None:
    lost: list[str] = []
    held = lease(lost)
    held.answered(1000.0, 0)
    now[0] = 1010.0
    held.look(stood_still=9.7)
    assert held.fenced
    assert len(lost) == 1
    assert "stood still" in lost[0]
    held.look(stood_still=9.7)
    assert len(lost) == 1, "told once"


def test_a_process_that_stood_still_and_runs_nothing_asks_before_it_gives_up(now: list[float]) -> None:
    lost: list[str] = []
    held = lease(lost, busy=False)
    held.answered(1000.0, 0)
    now[0] = 1010.0
    held.look(stood_still=9.7)
    assert lost == []
    assert not held.holds, "nothing is started before the broker has answered"
    held.answered(1009.9, 0)
    assert held.holds


def test_a_blocked_loop_whose_thread_went_on_beating_loses_nothing(now: list[float]) -> None:
    lost: list[str] = []
    held = lease(lost)
    now[0] = 1010.0
    held.answered(1009.5, 0)
    held.look(stood_still=9.7)
    assert lost == []
    assert held.holds


def test_a_lost_connection_alone_cancels_nothing(now: list[float]) -> None:
    """The broker may be down for everybody: handlers go on, and only a fence ends them."""
    lost: list[str] = []
    held = lease(lost)
    held.answered(1000.0, 0)
    now[0] = 1100.0
    held.look(stood_still=0.0)
    assert lost == []
    assert not held.holds


def test_a_fence_is_told_once(now: list[float]) -> None:
    lost: list[str] = []
    held = lease(lost)
    held.fenced = True
    held.look(0.0)
    held.look(0.0)
    assert len(lost) == 1


def test_the_clock_of_the_broker_is_learnt_from_answers(now: list[float]) -> None:
    held = lease([])
    held.answered(1000.0, 5_000_000)
    now[0] = 1001.5
    assert held.server_ms() == pytest.approx(5_001_500)
