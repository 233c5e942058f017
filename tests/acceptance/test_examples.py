"""The programs in examples/ run, print what they should, and leave nothing behind."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.programs import ROOT, Home, embedded_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentbus.broker.embedded import ServerBinary

EXAMPLES = ROOT / "examples"
#: What each example prints.
PRINTED = {
    "hello.py": ["attempt 1 at PR 7", "attempt 1 at PR 8", "PR 8 approved: False"],
    "request_reply.py": [
        "11 characters well spent",
        "refused at once: rejected",
        "nobody answered agent.oracle.question within 300ms",
    ],
    "pool.py": ["ben alone got: for you only", "60 pages read by anna, ben, carl"],
    "recurring.py": [
        "check: exhausted, ConnectionError: shop.example does not answer",
        "1 retried; waiting 0, dead 0",
    ],
    "pull.py": ["stamped birth", "stamped marriage", "rejected tax", "more: None"],
}


@pytest.fixture(scope="module")
def home(default_server: ServerBinary) -> Iterator[Home]:
    with embedded_home(default_server.path) as opened:
        yield opened


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_an_example_prints_what_it_should_and_warns_of_nothing(
    name: str, home: Home, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    finished = home.run_python(EXAMPLES / name, tmp_path, AGENTBUS_PREFIX=unique("example"))
    assert (finished.returncode, finished.stdout.splitlines(), finished.stderr) == (0, PRINTED[name], "")


def test_a_killed_worker_loses_nothing_and_the_other_says_what_it_took_over(
    home: Home, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    finished = home.run_python(EXAMPLES / "takeover.py", tmp_path, AGENTBUS_PREFIX=unique("example"))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "killed with SIGKILL while it holds" in finished.stdout
    assert re.search(r"12 sent, 12 processed, 0 lost, [1-9]\d* redelivered\n$", finished.stdout)


def test_every_small_example_is_run_by_a_test() -> None:
    programs = {path.name for path in EXAMPLES.glob("[a-z]*.py")}
    assert programs == {*PRINTED, "takeover.py", "fastapi_app.py"}


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("fastapi", "httpx")),
    reason="NOT TESTED: fastapi and httpx are not installed",
)
def test_the_web_application_asks_an_agent_in_its_own_process(
    home: Home, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    client = tmp_path / "client.py"
    client.write_text(
        "from fastapi.testclient import TestClient\n"
        "from examples.fastapi_app import app\n"
        "with TestClient(app) as client:\n"
        "    print(client.get('/prices/hat').json())\n"
        "    print([client.put('/orders/7', json=['hat']).json()['new'] for _ in range(2)])\n"
    )
    finished = home.run([sys.executable, client], tmp_path, AGENTBUS_PREFIX=unique("web"))
    printed = finished.stdout.splitlines()
    assert printed == ["{'article': 'hat', 'cents': 300}", "[True, False]"], finished.stderr
