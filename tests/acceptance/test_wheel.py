"""The wheel is complete: installed into an empty environment it works from a hostile folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentbus import __version__
from tests.acceptance.programs import ROOT, Finished, Home, embedded_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentbus.broker.embedded import ServerBinary

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="NOT TESTED: hatchling is not installed"
)

#: Names that a user may well give to files of their own, and that agentbus or a service of it has too.
HOSTILE = (
    "router",
    "workers",
    "message",
    "settings",
    "errors",
    "events",
    "broker",
    "keeper",
    "server_line",
)

PROGRAM = """
import asyncio, pathlib, agentbus
from agentbus import Agent, Bus

echo = Agent("echo")

@echo.on("text")
async def repeat(text: str) -> str:
    return text

async def main():
    async with Bus("embedded://", agent="asker") as bus, bus.serving(echo):
        print(await bus.request("agent.echo.text", "from the wheel", timeout="20s"))

asyncio.run(main())
print(pathlib.Path(agentbus.__file__).parents[1])
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel, and what the wheel depends on."""

    python: Path
    command: Path
    packages: Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, without the network: with the hatchling that is installed."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an sdist of a source tree."""
    program = f"import sys; from hatchling.build import build_{kind} as build; print(build(sys.argv[1]))"
    name = subprocess.run(
        [sys.executable, "-c", program, str(target)], cwd=source, check=True, capture_output=True, text=True
    )
    return target / name.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel into an empty environment; its dependencies are those of the test environment."""
    folder = tmp_path_factory.mktemp("empty")
    venv.EnvBuilder(with_pip=False).create(folder)
    python = folder / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib')); print(sysconfig.get_path('scripts'))"
    asked = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True)
    packages, scripts = (Path(line) for line in asked.stdout.splitlines())
    environment = _clean_environment()
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--quiet", str(wheel)], check=True, env=environment)
    # Comes after the wheel's own folder, so an agentbus of the test environment stays behind it.
    others = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (packages / "dependencies.pth").write_text("".join(f"{folder}\n" for folder in others))
    return Installed(python, scripts / "agentbus", packages)


@pytest.fixture(scope="module")
def home(default_server: ServerBinary) -> Iterator[Home]:
    with embedded_home(default_server.path) as opened:
        opened.environment.pop("PYTHONPATH")
        yield opened


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose files carry the names of ours and fail when they are imported."""
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(_trap(name))
    return tmp_path


def _trap(name: str) -> str:
    """Return a module that leaves a trace when it is imported, and fails."""
    trace = "import pathlib; pathlib.Path(__file__).with_suffix('.imported').touch()"
    return f"{trace}\nraise SystemExit('{name} of the user was imported')\n"


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_wheel_carries_scripts_and_types_and_nothing_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    in_checkout = {str(path.relative_to(ROOT)) for path in (ROOT / "agentbus").rglob("*.lua")}
    assert in_checkout
    assert in_checkout <= names
    assert "agentbus/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"agentbus"}


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "agentbus").rglob("*.py")} <= names


def test_the_services_are_inside_of_the_package_with_all_their_modules(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        carried = {name for name in opened.namelist() if name.startswith("agentbus/_services/")}
    modules = {path.relative_to(ROOT) for path in (ROOT / "workers").rglob("*") if path.is_file()}
    ours = {str(path) for path in modules if "__pycache__" not in path.parts}
    assert carried == {f"agentbus/_services/{name}" for name in ours}
    assert "workers/__main__.py" in ours


def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "out").mkdir()
    with zipfile.ZipFile(build("wheel", source, tmp_path / "out")) as again, zipfile.ZipFile(wheel) as first:
        assert sorted(again.namelist()) == sorted(first.namelist())


def test_the_installed_library_serves_from_a_folder_with_files_named_like_ours(
    installed: Installed, home: Home, hostile: Path, unique: Callable[[str], str]
) -> None:
    program = hostile / "program.py"
    program.write_text(PROGRAM)
    finished = home.run([installed.python, program], hostile, AGENTBUS_PREFIX=unique("wheel"))
    assert finished.stdout.splitlines() == ["from the wheel", str(installed.packages)], finished.stderr


def test_a_first_start_of_the_embedded_broker_works_from_a_folder_with_files_named_like_ours(
    installed: Installed, home: Home, hostile: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = hostile / "program.py"
    program.write_text(PROGRAM)
    stop = (
        "import asyncio, sys, pathlib\n"
        "from agentbus.broker.embedded import EmbeddedSettings, stop\n"
        "asyncio.run(stop(EmbeddedSettings(folder=pathlib.Path(sys.argv[1])), force=True))\n"
    )
    fresh = str(tmp_path_factory.mktemp("fresh"))
    try:
        finished = home.run([installed.python, program], hostile, AGENTBUS_HOME=fresh)
        assert finished.stdout.splitlines()[:1] == ["from the wheel"], finished.stderr
    finally:
        stopped = home.run([installed.python, "-P", "-c", stop, fresh], hostile)
    assert stopped.returncode == 0, stopped.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("typer") is None or importlib.util.find_spec("agentbus.cli.app") is None,
    reason="NOT TESTED: the command is not installed",
)
def test_the_installed_command_says_its_version_and_sends_from_such_a_folder(
    installed: Installed, home: Home, hostile: Path, unique: Callable[[str], str]
) -> None:
    version = home.run([installed.command, "version"], hostile)
    assert (version.returncode, __version__ in version.stdout) == (0, True), version.stderr
    prefix = unique("wheel")
    sent = home.run([installed.command, "pub", "agent.echo.text", '"hello"'], hostile, AGENTBUS_PREFIX=prefix)
    assert sent.returncode == 0, sent.stderr
    seen = home.run(
        [installed.command, "sub", "echo", "--count", "1", "--timeout", "10s"],
        hostile,
        AGENTBUS_PREFIX=prefix,
    )
    assert (seen.returncode, "hello" in seen.stdout) == (0, True), seen.stderr


def test_up_runs_the_workers_of_the_wheel_and_nothing_of_the_user(
    installed: Installed, hostile: Path, default_server: ServerBinary
) -> None:
    # Beside a program of the user's own this one would be found, by every Python; beside a command never.
    (hostile / "redis.py").write_text(_trap("redis"))
    # A package, too: a folder goes before a file of the same name.
    (hostile / "workers").mkdir()
    for module in ("__init__", "__main__"):
        (hostile / "workers" / f"{module}.py").write_text(_trap("workers"))
    with embedded_home(default_server.path) as home:
        home.environment.pop("PYTHONPATH")

        def run(*arguments: str) -> Finished:
            finished = home.run([installed.command, *arguments], hostile)
            assert finished.returncode == 0, finished.stderr + finished.stdout
            return finished

        told = json.loads(run("up", "--detach").stdout)
        (worker,) = (json.loads(line) for line in run("workers").stdout.splitlines())
        assert worker["pid"] == told["workers"]["pid"] is not None
        assert worker["phase"] == "running"
        search_path = _environment_of(worker["pid"])["PYTHONPATH"]
        assert search_path == str(installed.packages / "agentbus" / "_services")
        assert not list(hostile.rglob("*.imported")), "a file of the user was imported"
        run("down")


def _environment_of(pid: int) -> dict[str, str]:
    listed = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in listed if "=" in line)
