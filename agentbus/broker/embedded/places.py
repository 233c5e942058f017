"""Where the embedded broker lives: folders that only the user can reach, and socket paths that fit."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from agentbus.errors import ConfigurationError

#: The kernel's limit is 104 bytes on macOS and 108 on Linux, with the ending zero.
LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one shared broker, all derived from its folder."""

    folder: Path

    @property
    def state(self) -> Path:
        """Who runs, as JSON, written by the keeper: the way from a folder to its socket."""
        return self.folder / "broker.json"

    @property
    def log(self) -> Path:
        """What the server and its keeper say."""
        return self.folder / "broker.log"

    @property
    def pidfile(self) -> Path:
        """The server's process id, written by the server."""
        return self.folder / "broker.pid"

    @property
    def workers_order(self) -> Path:
        """What the keeper is to do about workers; removed as soon as it is read."""
        return self.folder / "workers.order"

    @property
    def workers_state(self) -> Path:
        """The workers that the keeper looks after, as JSON."""
        return self.folder / "workers.json"

    @property
    def workers_log(self) -> Path:
        """What the workers say."""
        return self.folder / "workers.log"

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts or stops the broker, only while doing it."""
        return self.folder / "start.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the keeper as long as it lives."""
        return self.folder / "keeper.lock"

    @property
    def data_lock(self) -> Path:
        """Held by keeper and server as long as either lives: two servers never write the same data."""
        return self.folder / "data.lock"

    def data(self, kind: str, major: int) -> Path:
        """The data folder of one kind and major version: an older server refuses a newer one's files."""
        return self.folder / "data" / f"{kind}-{major}"


def open_places(folder: Path | None) -> Places:
    """Make the broker's folder if it is missing and check that nobody else can write to it.

    Raises ``ConfigurationError`` for a folder that belongs to somebody else or that others can write to.
    """
    chosen = folder if folder is not None else platformdirs.user_data_path("agentbus", appauthor=False)
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The broker's folder {chosen} cannot be made: {error}") from error
    # Resolved, so that two spellings of one folder share one broker.
    resolved = chosen.resolve()
    _refuse_foreign(resolved, resolved.stat(), forbidden_mode=0o022)
    return Places(resolved)


def socket_path(places: Places, *, chosen_folder: bool) -> Path:
    """Say where the socket of a broker goes: into a folder the user chose if the path is short enough,
    else into the user's folder for run-time files, under a name made of the broker's folder."""
    beside_data = places.folder / "broker.sock"
    if chosen_folder and _fits(beside_data):
        return beside_data
    name = hashlib.sha256(os.fsencode(places.folder)).hexdigest()[:16]
    return runtime_folder() / f"{name}.sock"


def runtime_folder() -> Path:
    """The user's folder for sockets, mode 0700: in the system's run-time folder, else in the temporary one.

    Raises ``ConfigurationError`` when what stands at that path is a link, is somebody else's, or is open
    to others: whoever can write there could put a server of their own in our place.
    """
    system = _system_runtime_folder()
    if system is not None:
        inside = system / "agentbus"
        if _fits(inside / ("0" * 16 + ".sock")):
            return private_folder(inside)
    return private_folder(temporary_folder() / f"agentbus-{os.getuid()}")


def _system_runtime_folder() -> Path | None:
    with warnings.catch_warnings():
        # platformdirs warns where there is none and names a folder that may not exist. We have an answer.
        warnings.simplefilter("ignore")
        path = platformdirs.user_runtime_path(appauthor=False)
    try:
        status = path.lstat()
    except OSError:
        return None
    safe = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return path if safe and os.access(path, os.W_OK | os.X_OK) else None


def private_folder(path: Path) -> Path:
    """Make a folder with mode 0700, or check that the one that is there is the user's alone."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error}") from error
    # lstat, not stat: in a folder open to all, a link may have been put there by somebody else.
    _refuse_foreign(path, path.lstat(), forbidden_mode=0o077)
    return path


def temporary_folder() -> Path:
    """The system's folder for temporary files, or /tmp where its name leaves no room for a socket."""
    usual = Path(tempfile.gettempdir())
    return usual if _fits(usual / ("0" * 40)) else Path("/tmp")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH


def _refuse_foreign(path: Path, status: os.stat_result, *, forbidden_mode: int) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is not a folder (links are not followed there); remove it.")
    if status.st_uid != os.getuid():
        raise ConfigurationError(f"{path} belongs to user id {status.st_uid}, not to you ({os.getuid()}).")
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden_mode:
        raise ConfigurationError(
            f"{path} has mode {mode:04o}: others could reach the broker in it. Run: chmod 700 '{path}'"
        )
