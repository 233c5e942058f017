"""What follows from the broker's answer to a batch."""

from __future__ import annotations

import asyncio

from agentbus.broker.answers import BatchAnswer
from agentbus.send.batch import Batch, freeze
from agentbus.send.envelope import PublishOptions, Sender, compose
from agentbus.send.stored import Waiting
from agentbus.send.verdicts import first_due


async def _batch(*options: PublishOptions) -> Batch:
    loop = asyncio.get_running_loop()
    sender = Sender("tester", "tester")
    return freeze(
        [
            Waiting(compose(sender, "agent.a.task", 1, option, 1 << 20), 0.0, loop.create_future())
            for option in options
        ]
    )


async def test_the_first_due_time_of_a_batch_is_the_earliest_that_was_stored() -> None:
    batch = await _batch({"delay": "2h"}, {}, {"delay": "1h"}, {"at": "2100-01-01T00:00:00Z"})
    results = [b"due x 7200000", b"1-0", b"!full", b"due y 4102444800000"]
    assert first_due(batch, BatchAnswer("stored", results=results)) == 7_200_000


async def test_a_batch_without_delayed_messages_has_none() -> None:
    assert first_due(await _batch({}, {}), BatchAnswer("stored", results=[b"1-0", b"1-1"])) is None
    assert first_due(await _batch({"ttl": "1h"}), BatchAnswer("stored", results=[b"1-0"])) is None
    assert first_due(await _batch({"ttl": "1h"}), BatchAnswer("recovered")) is None


async def test_a_delayed_batch_that_was_stored_before_is_looked_at_now() -> None:
    """Its reply was lost, and with it the times."""
    assert first_due(await _batch({}, {"delay": "1h"}), BatchAnswer("recovered")) == 0
