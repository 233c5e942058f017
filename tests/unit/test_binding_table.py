"""A publisher's copy of the table of bindings: asked for once by all who need it, and again when outdated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentbus.bindings.table import BindingTable
from agentbus.broker.bindings import RawTable
from agentbus.errors import BrokerUnavailable
from agentbus.events import Events

_EMPTY = RawTable({}, {}, (), 0.0)


class _Store:
    """Counts how often it is asked."""

    def __init__(self, answer: Callable[[], RawTable]) -> None:
        self.asked = 0
        self._answer = answer

    async def read(self) -> RawTable:
        self.asked += 1
        return self._answer()


def _table(store: Any) -> BindingTable:
    return BindingTable(store, Events())


async def test_all_who_need_the_table_at_one_moment_ask_once() -> None:
    store = _Store(lambda: _EMPTY)
    table = _table(store)
    assert not table.fresh
    await asyncio.gather(*(table.ensure() for _ in range(10)))
    await table.ensure()
    assert (store.asked, table.fresh) == (1, True)
    table.outdate()
    await table.ensure()
    assert store.asked == 2


async def test_all_who_wait_hear_of_an_outage_and_the_next_one_asks_again() -> None:
    def fail() -> RawTable:
        raise BrokerUnavailable

    store = _Store(fail)
    table = _table(store)
    heard = await asyncio.gather(*(table.ensure() for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in heard] == [BrokerUnavailable] * 3
    assert store.asked == 1
    with pytest.raises(BrokerUnavailable):
        await table.ensure()
    assert store.asked == 2


@pytest.mark.timeout(10)
async def test_a_table_outdated_in_the_moment_of_its_answer_is_asked_for_again() -> None:
    def answer() -> RawTable:
        if store.asked == 1:
            # Runs after the task that asks has ended, and before anybody is told of that.
            asyncio.get_running_loop().call_soon(outdate_and_need)
        return _EMPTY

    def outdate_and_need() -> None:
        table.outdate()
        needing = table.ensure()
        needing.send(None)
        needing.close()
        waited.append(True)

    waited: list[bool] = []
    store = _Store(answer)
    table = _table(store)
    await table.ensure()
    await asyncio.sleep(0)
    # Without a pause it would have asked the one that has ended for ever.
    assert waited
    assert (store.asked, table.fresh) == (2, True)
