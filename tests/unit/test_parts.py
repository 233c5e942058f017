"""The parts of one run are numbered without a doubt."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from agentbus.errors import BodyNotSerializable, BrokerUnavailable, StaleDelivery
from agentbus.message.reply_address import PartMark
from agentbus.receive.delivery import Delivery
from agentbus.receive.parts import Parts


class Held:
    """What `Parts` looks at of a delivery."""

    message = None
    attempt = 2
    revoked = False


class Wire:
    """Takes parts; fails as it is told to, one after the other."""

    def __init__(self, *failures: Exception | asyncio.Event) -> None:
        self.failures = list(failures)
        self.sent: list[tuple[Any, int]] = []
        self.there = True

    async def __call__(self, request: Any, content: Any, mark: PartMark) -> bool:
        assert mark.attempt == 2
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, asyncio.Event):
            await failure.wait()
        elif failure is not None:
            raise failure
        self.sent.append((content, mark.number))
        return self.there


def parts_over(wire: Wire, held: Held | None = None) -> Parts:
    return Parts(cast(Delivery, held or Held()), wire)


async def test_a_part_is_sent_under_its_number_until_the_broker_answers() -> None:
    wire = Wire(BrokerUnavailable(uncertain=True), BrokerUnavailable())
    parts = parts_over(wire)
    assert await parts.send("a") and await parts.send("b")
    assert wire.sent == [("a", 0), ("b", 1)]
    assert parts.mark.number == 2


async def test_a_sending_that_is_cancelled_leaves_a_gap_and_no_confusion() -> None:
    wire = Wire(asyncio.Event())
    parts = parts_over(wire)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(parts.send("perhaps"), 0.01)
    assert await parts.send("next")
    assert wire.sent == [("next", 1)]


async def test_what_cannot_be_sent_takes_no_number() -> None:
    wire = Wire(BodyNotSerializable("body", "is no JSON"))
    parts = parts_over(wire)
    with pytest.raises(BodyNotSerializable):
        await parts.send(object())
    assert await parts.send("a")
    assert wire.sent == [("a", 0)]


async def test_nothing_more_is_sent_to_a_process_that_is_gone_or_by_an_owner_that_lost_its_lease() -> None:
    wire = Wire()
    wire.there = False
    parts = parts_over(wire)
    assert not await parts.send("a") and not await parts.send("b")
    assert wire.sent == [("a", 0)]
    held = Held()
    held.revoked = True
    with pytest.raises(StaleDelivery):
        await parts_over(wire, held).send("a")
