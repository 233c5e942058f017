"""Fixtures that many of these tests share; a file that needs another bus makes its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from agentbus import Bus
from agentbus.testing import BrokerForTests
from tests.bindings import quicken


@pytest.fixture
async def bus(broker: BrokerForTests) -> AsyncIterator[Bus]:
    """A bus under the prefix that all tests of this process share."""
    async with Bus(broker.url, agent="tester") as opened:
        yield opened


@pytest.fixture
async def client(broker: BrokerForTests) -> AsyncIterator[Any]:
    """A connection of the driver, to look at keys with."""
    opened = redis.asyncio.Redis.from_url(broker.url, protocol=2)
    yield opened
    await opened.aclose()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishers ask for new bindings more often."""
    quicken(monkeypatch)
