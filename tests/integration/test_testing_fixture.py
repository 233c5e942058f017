"""The fixtures that agentbus.testing offers to users, used as a user does: in a test run of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentbus.broker.embedded import PrivateBroker, ServerBinary

USES_BROKER = """
import redis

def test_first(agentbus_broker):
    print("AT", agentbus_broker.url, agentbus_broker.description)
    with redis.Redis.from_url(agentbus_broker.url) as client:
        assert client.ping()

def test_second_has_the_same(agentbus_broker):
    print("AT", agentbus_broker.url, agentbus_broker.description)
"""

USES_BUS = """
import pytest

@pytest.mark.asyncio
async def test_publishes(bus):
    stored = await bus.publish("agent.somebody.task", {"number": 1})
    assert stored.message_id

@pytest.mark.asyncio
async def test_begins_empty(bus, agentbus_broker):
    import redis
    with redis.Redis.from_url(agentbus_broker.url) as client:
        assert not client.keys("agentbus:{agent.somebody}:*")
"""

SETTING_NAMES = ("CI", "AGENTBUS_REQUIRE_BROKER", "AGENTBUS_TEST_URL", "AGENTBUS_TEST_SERVER")


def run_tests(folder: Path, tests: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a user's tests in a process of their own, with the plugin and without any configuration."""
    (folder / "test_of_user.py").write_text(tests)
    (folder / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    entry_points = importlib.metadata.entry_points(group="pytest11", name="agentbus")
    plugin = [] if entry_points else ["-p", "agentbus.testing"]
    kept = {name: value for name, value in os.environ.items() if name not in SETTING_NAMES}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-s", "-p", "no:cacheprovider", *plugin, str(folder)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=folder,
        env={**kept, **environment},
    )


def test_the_fixture_gives_all_tests_one_server_and_removes_it(
    tmp_path: Path, each_server: ServerBinary
) -> None:
    finished = run_tests(tmp_path, USES_BROKER, AGENTBUS_TEST_SERVER=str(each_server.path))

    assert "2 passed" in finished.stdout, finished.stdout + finished.stderr
    lines = {line.partition("AT ")[2] for line in finished.stdout.splitlines() if "AT unix" in line}
    assert len(lines) == 1
    url, _, description = lines.pop().partition(" ")
    assert description.startswith(f"{each_server.kind} {each_server.version}")
    assert not os.path.exists(url.removeprefix("unix://"))  # noqa: PTH110 - the text of an URL


def test_a_url_in_the_environment_is_used_and_not_cleared(
    tmp_path: Path, private_broker: Callable[..., PrivateBroker]
) -> None:
    server = private_broker()

    finished = run_tests(tmp_path, USES_BROKER, AGENTBUS_TEST_URL=server.url)

    assert "2 passed" in finished.stdout, finished.stdout + finished.stderr
    assert f"AT {server.url} the server of AGENTBUS_TEST_URL" in finished.stdout
    assert server.running


def test_without_a_server_tests_are_skipped_with_a_loud_reason(tmp_path: Path) -> None:
    finished = run_tests(tmp_path, USES_BROKER, AGENTBUS_TEST_SERVER="/nowhere/server")

    assert "2 skipped" in finished.stdout, finished.stdout + finished.stderr
    assert "NOT TESTED, no broker" in finished.stdout
    assert "agentbus-redis[embedded]" in finished.stdout


@pytest.mark.parametrize("required", [{"CI": "true"}, {"AGENTBUS_REQUIRE_BROKER": "1"}])
def test_where_a_broker_is_required_its_absence_is_a_failure(
    tmp_path: Path, required: dict[str, str]
) -> None:
    finished = run_tests(tmp_path, USES_BROKER, AGENTBUS_TEST_SERVER="/nowhere/server", **required)

    assert finished.returncode == 1
    assert "2 errors" in finished.stdout
    assert "A broker is required here" in finished.stdout


def test_a_run_that_asks_for_nothing_starts_nothing(tmp_path: Path) -> None:
    finished = run_tests(
        tmp_path,
        "def test_nothing():\n    import sys\n    assert 'agentbus.broker.embedded' not in sys.modules\n",
        AGENTBUS_TEST_SERVER="/nowhere/server",
        CI="true",
    )

    assert "1 passed" in finished.stdout, finished.stdout + finished.stderr


def test_the_bus_is_open_and_each_test_begins_without_keys(tmp_path: Path, each_server: ServerBinary) -> None:
    finished = run_tests(tmp_path, USES_BUS, AGENTBUS_TEST_SERVER=str(each_server.path))

    assert "2 passed" in finished.stdout, finished.stdout + finished.stderr
