"""A tenth of the benchmark: dead letters retried beside fresh traffic; noise does not reach the bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentbus.broker.embedded import PrivateBroker
from benchmarks.revival import Scene, play

ROOT = Path(__file__).parents[2]


async def test_ten_thousand_retried_letters_do_not_hold_up_fresh_messages(
    private_broker: Callable[..., PrivateBroker], tmp_path: Path
) -> None:
    # A tenth of the letters and of the flow: the machine of a test run has other things to do.
    scene = Scene(private_broker().url, ROOT, tmp_path, letters=10_000, flow=2_000, seconds=2.0)
    found = await play(scene)
    assert (found.letters, found.closes) == (10_000, True)
    assert found.fresh_beside > found.fresh_before / 3
