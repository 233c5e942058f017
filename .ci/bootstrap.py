"""Make the virtual environments of this checkout: ``python3 .ci/bootstrap.py run|develop|bench``.

``run`` holds what the demo needs, ``develop`` adds tests and linters, ``bench`` is the separate environment
of the packages that agentbus is measured against. Nothing happens when the environment already matches the
files it was made from. Needs only the standard library; pip is used with whatever configuration it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PEERS = ROOT / "benchmarks" / "peers.txt"
#: Environment sets and the dependency groups of pyproject.toml that each one holds.
GROUPS: dict[str, tuple[str, ...]] = {"run": (), "develop": ("test", "lint", "build")}
#: What hatchling asks for when it builds an editable install, without naming it in its own metadata.
EDITABLE_BUILD = "editables"
NO_PIP = (
    "this Python has no ensurepip, and neither pip nor virtualenv nor uv was found: install one and run "
    "make again (Debian and Ubuntu: apt-get install python3-venv)"
)


class SetupFailed(Exception):
    """The environment cannot be made; the text says why and what helps."""


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036  (somebody may start this file with an older Python)
        say(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
        return 1
    if len(arguments) != 1 or arguments[0] not in (*GROUPS, "bench"):
        say("say which environment: run, develop or bench")
        return 2
    try:
        with one_at_a_time():
            prepare(arguments[0])
    except SetupFailed as problem:
        say(str(problem))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next make begins again")
        return 130
    return 0


def say(text: str) -> None:
    sys.stdout.write(f"set-up: {text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock on the checkout: two makes at once would install over each other.

    The lock is on the folder itself, so it leaves no file behind and ends with the process.
    """
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make is setting up this checkout; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def prepare(purpose: str) -> None:
    """Bring the environment of ``purpose`` to what its files say, if it is not there yet."""
    folder = ROOT / (".venv-bench" if purpose == "bench" else ".venv")
    wanted = fingerprint(purpose)
    # A `develop` environment holds everything that `run` needs.
    holders = ("run", "develop") if purpose == "run" else (purpose,)
    if works(folder) and any(read_stamp(folder, holder) == fingerprint(holder) for holder in holders):
        return
    started = time.monotonic()
    # Removed first and written last: an interrupted set-up is never taken for a finished one.
    for holder in (*GROUPS, "bench"):
        stamp(folder, holder).unlink(missing_ok=True)
    if not works(folder) or moved(folder) or unfinished(folder).exists():
        create(folder)
    unfinished(folder).touch()
    install(purpose, folder)
    unfinished(folder).unlink()
    write_stamp(folder, purpose, wanted)
    say(f"{folder.name} is ready after {time.monotonic() - started:.0f} s")


def fingerprint(purpose: str) -> str:
    """Return a digest of everything that decides what an environment contains."""
    digest = hashlib.sha256(f"{purpose} {ROOT}".encode())
    files = (PEERS,) if purpose == "bench" else (ROOT / "pyproject.toml", CONSTRAINTS)
    for file in files:
        try:
            digest.update(file.read_bytes())
        except FileNotFoundError:
            raise SetupFailed(f"{file.relative_to(ROOT)} is missing") from None
    return digest.hexdigest()


def stamp(folder: Path, purpose: str) -> Path:
    return folder / f".ready-{purpose}"


def read_stamp(folder: Path, purpose: str) -> str:
    try:
        return stamp(folder, purpose).read_text()
    except OSError:
        return ""


def write_stamp(folder: Path, purpose: str, content: str) -> None:
    written = folder / ".ready-new"
    written.write_text(content)
    written.replace(stamp(folder, purpose))


def works(folder: Path) -> bool:
    """Say whether the folder holds an environment whose interpreter starts and has pip."""
    python = folder / "bin" / "python"
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return python.exists() and succeeds([str(python), "-c", check])


def moved(folder: Path) -> bool:
    """Say whether the environment was made in another place: its scripts name the old one."""
    try:
        return str(folder) not in (folder / "bin" / "activate").read_text()
    except OSError:
        return False


def unfinished(folder: Path) -> Path:
    """Return the mark of a running installation.

    One that was killed can leave a package half there, which pip then takes for installed.
    """
    return folder / ".installing"


def create(folder: Path) -> None:
    """Make an environment with pip in it, by the first way that this machine offers."""
    say(f"making {folder.name} with Python {sys.version.split()[0]}")
    if succeeds([sys.executable, "-m", "venv", "--clear", str(folder)]) and works(folder):
        return
    bare = [sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)]
    if succeeds(bare):
        for command in pips_elsewhere(folder):
            if succeeds([*command, "--constraint", str(CONSTRAINTS), "pip"]) and works(folder):
                say("this Python has no ensurepip; took the pip of this machine")
                return
    for command in virtualenvs():
        if succeeds([*command, "--clear", "--python", sys.executable, str(folder)]) and works(folder):
            say("this Python has no ensurepip; used virtualenv")
            return
    # A folder without pip would only confuse whoever looks at it next.
    shutil.rmtree(folder, ignore_errors=True)
    raise SetupFailed(NO_PIP)


def pips_elsewhere(folder: Path) -> Iterator[list[str]]:
    """Yield commands of this machine that can install pip into a bare environment."""
    python = str(folder / "bin" / "python")
    install_there = ["--python", python, "install", "--quiet", "--disable-pip-version-check"]
    yield [sys.executable, "-m", "pip", *install_there]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            yield [found, *install_there]
    # Debian keeps the wheels of ensurepip and virtualenv here; a wheel of pip can be run as it is.
    for wheel in sorted(glob.glob("/usr/share/python-wheels/pip-*.whl"), reverse=True):  # noqa: PTH207
        yield [python, f"{wheel}/pip", "install", "--quiet", "--disable-pip-version-check"]
    if found := shutil.which("uv"):
        yield [found, "pip", "install", "--quiet", "--python", python]


def virtualenvs() -> Iterator[list[str]]:
    yield [sys.executable, "-m", "virtualenv", "--quiet"]
    if found := shutil.which("virtualenv"):
        yield [found, "--quiet"]


def install(purpose: str, folder: Path) -> None:
    """Install what ``purpose`` needs, pinned, and for all but ``bench`` the project itself, editable."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if purpose == "bench":
        say("installing the packages to compare with (the first time takes a minute or two)")
        run_pip([*pip, "--requirement", str(PEERS)])
        return
    say("installing pinned packages (the first time takes a minute or two)")
    # The build backend goes in pinned like all others, so that building the project asks for nothing more.
    run_pip([*pip, "--constraint", str(CONSTRAINTS), *requirements(GROUPS[purpose])])
    run_pip([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def requirements(groups: tuple[str, ...]) -> list[str]:
    """Return the requirements of the project, of all its extras, of its build and of dependency groups.

    Read here because pip learnt ``--group`` only in 25.1, and Python 3.11 brings an older one.
    """
    import tomllib  # not at the top: older Pythons must still get as far as the clear error in main

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    own_name = project["project"]["name"]
    found = [EDITABLE_BUILD, *project["build-system"]["requires"]]
    found += project["project"].get("dependencies", [])
    for extra in project["project"].get("optional-dependencies", {}).values():
        found += [line for line in extra if not line.startswith(own_name)]
    for group in groups:
        found += project.get("dependency-groups", {}).get(group, [])
    return found


def run_pip(command: list[str]) -> None:
    """Run pip; show what it said only when it failed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.stdout.write((done.stdout + done.stderr).strip() + "\n")
        raise SetupFailed("pip failed; its own words are above. Run make again to try again")


def succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
