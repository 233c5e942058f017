"""Where a run takes place: a private broker, the processes on it, and the means to break them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import redis

from agentbus.broker.embedded import PrivateBroker, ServerBinary, find_server
from agentbus.errors import BrokerUnavailable
from tests.chaos import books
from tests.chaos.books import Books
from tests.chaos.history import History, Record, read_folder

_ROOT = Path(__file__).resolve().parents[2]
_SHARED_MEMORY = Path("/dev/shm")


class RunFailed(AssertionError):
    """The run did not get as far as it must; the text says where it stood."""


class Stage:
    """Use as a context manager; on leaving, nothing it started is left."""

    #: Where a run that fails leaves what it had in files; None keeps nothing. One for all runs of a command.
    keep: ClassVar[Path | None] = None

    def __init__(
        self, binary: ServerBinary | None = None, appendfsync: str = "everysec", in_memory: bool = False
    ) -> None:
        """``in_memory``: keep the broker's files where no sync ever takes long, if there is such a place."""
        self.binary = binary or find_server()
        self.appendfsync = appendfsync
        place = _SHARED_MEMORY if in_memory and _SHARED_MEMORY.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="agentbus-chaos-", dir=place))
        data = {"dir": str(self.folder)} if place else None
        self.broker = PrivateBroker(self.binary, appendfsync=appendfsync, config=data)
        self.history = History(self.folder, "run")
        #: Processes that were killed, stopped or told to end on purpose.
        self._expected: set[int] = set()
        self._ended: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._nursery: subprocess.Popen[str] | None = None

    def __enter__(self) -> Stage:
        try:
            self.broker.start()
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nursery", str(self.folder)],
                cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception):
                self.keep_evidence(f"{type(error).__name__}: {error}")
        except (OSError, BrokerUnavailable) as problem:
            # What the run failed of is the better news.
            print(f"not all could be kept: {problem}")
        finally:
            self._close()

    def _close(self) -> None:
        if self._nursery is not None:
            with self._nursery:
                pass
        self.broker.close()
        self.history.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_evidence(self, reason: str) -> Path | None:
        """Copy the broker's files and log and every history to a folder of their own, and print which.

        The server is killed first: what it writes in its last moments would cover up what was found.
        """
        if self.keep is None:
            return None
        if self.broker.running:
            self.kill_broker()
        self.keep.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="run-", dir=self.keep))
        for name, folder in (("stage", self.folder), ("broker", self.broker.folder)):
            # Processes that still run make files and sockets meanwhile.
            shutil.copytree(folder, place / name, ignore=_not_plain, ignore_dangling_symlinks=True)
        (place / "reason.txt").write_text(f"{reason}\n{self.binary}, appendfsync {self.appendfsync}\n")
        print(f"kept in {place}: {reason}")
        return place

    # --- processes ---

    def start(self, role: str, **options: Any) -> int:
        """Start a process of a role on this broker; returns its id."""
        options = {"url": self.broker.url, "folder": str(self.folder), **options}
        pid = int(self._order(do="start", role=role, options=options)["pid"])
        self._names[pid] = role
        return pid

    def kill(self, pid: int) -> bool:
        """End a process with SIGKILL; False when it had ended by itself."""
        self._expected.add(pid)
        sent = self.signal(pid, signal.SIGKILL)
        # Written when it is dead: everything that it wrote itself comes before.
        self.history.write("killed", pid=pid)
        return sent

    def freeze(self, pid: int) -> None:
        """Stop a process with SIGSTOP; SIGCONT wakes it."""
        self.history.write("frozen", pid=pid)
        self.signal(pid, signal.SIGSTOP)

    def signal(self, pid: int, number: signal.Signals) -> bool:
        """Send a signal; False when the process had ended."""
        return bool(self._order(do="signal", pid=pid, signal=int(number))["sent"])

    def ended(self) -> dict[int, int]:
        """Return the exit codes of all processes that have ended; raises when one did so unasked."""
        self._ended.update(dict(self._order(do="ended")["ended"]))
        for pid, code in self._ended.items():
            if code != 0 and pid not in self._expected:
                raise RunFailed(f"{self._names[pid]} {pid} ended with {code}:\n{self.said(pid)}")
        return self._ended

    def expect_end(self, pid: int) -> None:
        """Note that a process may end in whatever way."""
        self._expected.add(pid)

    def stop(self, pids: list[int], seconds: float = 40.0) -> None:
        """Ask processes to stop and wait until they have."""
        for pid in pids:
            self.signal(pid, signal.SIGTERM)
        self.wait(lambda: all(pid in self.ended() for pid in pids), seconds, "the agents to stop")

    def said(self, pid: int) -> str:
        """Return the last of what a process wrote to its output."""
        path = self._output(pid)
        return path.read_text()[-3000:] if path.exists() else "(nothing)"

    def has_spoken(self, pid: int) -> bool:
        """Whether a process has written anything to its output."""
        path = self._output(pid)
        return path.exists() and path.stat().st_size > 0

    def _output(self, pid: int) -> Path:
        return self.folder / f"{self._names[pid]}-{pid}.log"

    def _order(self, **order: Any) -> dict[str, Any]:
        nursery = self._nursery
        assert nursery is not None and nursery.stdin is not None and nursery.stdout is not None
        nursery.stdin.write(json.dumps(order) + "\n")
        nursery.stdin.flush()
        answer = nursery.stdout.readline()
        if not answer:
            raise RunFailed("the process that forks the others is gone")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded

    # --- the broker ---

    def kill_broker(self) -> None:
        """End the server with SIGKILL."""
        self.broker.kill()
        self.history.write("broker_killed")

    def tear_file(self, length: int) -> None:
        """Take so many bytes from the end of the killed server's file, as a kill in mid-write does."""
        kept = (self.folder, self.broker.folder / "data")
        (file,) = [file for place in kept for file in place.glob("appendonlydir/*.incr.aof")]
        os.truncate(file, max(0, file.stat().st_size - length))

    def start_broker(self) -> None:
        """Bring the server back on its data."""
        self.broker.start()
        self.history.write("broker_started")

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Open a plain connection to the broker."""
        with redis.Redis(unix_socket_path=str(self.broker.socket), socket_timeout=20) as client:
            yield client

    def books(self, address: str) -> Books:
        """Return the books of an address; raises when they do not close."""
        with self.client() as client:
            found = books.look(client, address)
        if found.difference or found["vanished"]:
            raise RunFailed(f"the books of {address} do not close: {found}")
        return found

    def dead_keys(self, address: str) -> list[str]:
        """Return the keys of the dead letters."""
        with self.client() as client:
            return books.dead_keys(client, address)

    def queued_keys(self, address: str) -> list[str]:
        """Return the keys of all unsettled messages."""
        with self.client() as client:
            return books.queued_keys(client, address)

    # --- waiting ---

    def records(self) -> list[Record]:
        """Return what everybody has written so far."""
        return read_folder(self.folder)

    def wait_drained(self, address: str, seconds: float = 60.0) -> None:
        """Wait until nothing waits, is held or comes due."""
        try:
            self.wait(lambda: self.books(address).unsettled == 0, seconds, "the drain", every=0.2)
        except TimeoutError as error:
            raise RunFailed(f"{error}: {self.books(address)}") from error

    def wait(self, condition: Callable[[], bool], seconds: float, what: str, every: float = 0.02) -> None:
        """Wait for a condition; raises `TimeoutError` after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(every)


def _not_plain(folder: str, names: list[str]) -> list[str]:
    """Name what cannot be copied: sockets, and what is gone again."""
    return [name for name in names if not (path := Path(folder) / name).is_file() and not path.is_dir()]
