"""Outcomes and the texts in them."""

from __future__ import annotations

import pytest

from agentbus.receive.outcome import PASSED_ON, Kind, Outcome, storable


class Mute:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("caf\udce9", "caf?"),
        (ValueError("x"), "x"),
        (None, "None"),
        ({"a": 1}, "{'a': 1}"),
        (Mute(), "(a Mute that cannot be written as text)"),
    ],
)
def test_every_reason_can_be_stored(value: object, text: str) -> None:
    assert storable(value) == text


def test_a_long_reason_is_cut() -> None:
    assert len(storable("x" * 1_000_000)) == 2000


def test_what_is_passed_on_is_still_to_be_handled_by_somebody() -> None:
    ended = set(Kind) - PASSED_ON
    assert ended == {Kind.PROCESSED, Kind.DEAD, Kind.DISCARDED, Kind.EXPIRED}


def test_an_outcome_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Outcome(Kind.DEAD).kind = Kind.PROCESSED  # type: ignore[misc]
