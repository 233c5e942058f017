"""Random histories of one inbox, compared with a plain model after every step.

``AGENTBUS_MODEL_EXAMPLES`` and ``AGENTBUS_MODEL_STEPS`` make the run longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from agentbus.broker import inbox_care
from agentbus.broker.embedded import PrivateBroker
from tests.inbox_machine import STEP, InboxMachine

EXAMPLES = int(os.environ.get("AGENTBUS_MODEL_EXAMPLES", "200"))
STEPS = int(os.environ.get("AGENTBUS_MODEL_STEPS", "30"))
PHASES = [Phase.generate] if "AGENTBUS_MODEL_RAW" in os.environ else list(Phase)


def drive(private_broker: Callable[..., PrivateBroker], monkeypatch: Any, examples: int, steps: int) -> None:
    # Nodes of two entries, so that trim has something to remove among a few entries.
    server = private_broker(config={"stream-node-max-entries": "2"}, appendonly=False)
    monkeypatch.setattr(inbox_care, "RECLAIM_STEP", STEP)
    machine = type("InboxMachineOnServer", (InboxMachine,), {"url": server.url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            report_multiple_bugs=False,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=PHASES,
        ),
    )


@pytest.mark.timeout(180)
def test_every_history_of_an_inbox_agrees_with_the_model(
    private_broker: Callable[..., PrivateBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(private_broker, monkeypatch, EXAMPLES, STEPS)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.skipif("AGENTBUS_LONG" not in os.environ, reason="long version: set AGENTBUS_LONG=1")
def test_long_histories_of_an_inbox_agree_with_the_model(
    private_broker: Callable[..., PrivateBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(private_broker, monkeypatch, 10 * EXAMPLES, 4 * STEPS)
