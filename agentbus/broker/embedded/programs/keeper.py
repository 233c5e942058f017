"""Program: keeps the broker that a user's processes share.

Starts the server, restarts it when it crashes, ends it when nobody has used it for a while. Looks after the
workers beside it, if somebody ordered some. Belongs to no terminal and to no parent. Its one argument is a
plan as JSON; on standard output it tells its starter one line: ``ready``, ``taken`` (another keeper is at
work) or ``failed: <reason>``.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

    from agentbus.broker.embedded.programs.append_file import cut_torn_end
    from agentbus.broker.embedded.programs.server_line import ServerLine, ServerSaidNo, answers
    from agentbus.broker.embedded.programs.server_process import end_server, start_server
    from agentbus.broker.embedded.programs.workers_process import WorkerFiles, WorkersProcess
else:
    from append_file import cut_torn_end
    from server_line import ServerLine, ServerSaidNo, answers
    from server_process import end_server, start_server
    from workers_process import WorkerFiles, WorkersProcess

#: Its own connections are no use of the broker; stop() leaves them out by this name.
CLIENT_NAME = "agentbus-keeper"
#: Nor are those of workers, which are there for others.
WORKERS_NAME = "agentbus:workers:"

#: A server that ends this often within ``_CRASH_WINDOW_SECONDS`` will not be helped by one more start.
_MOST_CRASHES = 5
_CRASH_WINDOW_SECONDS = 60.0

#: Seconds to wait for the lock of a keeper or server that is just ending.
_KEEPER_LOCK_SECONDS = 0.5
_DATA_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """What the starter decided."""

    command: list[str]
    socket: str
    log: str
    state: str
    pidfile: str
    keeper_lock: str
    data_lock: str
    start_lock: str
    idle_seconds: float
    #: Written to the state file together with the process ids.
    facts: dict[str, Any]
    #: Order, state and log of the workers.
    workers: tuple[str, str, str]


class UseWatch:
    """Tells how long nobody has used the server."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._line: ServerLine | None = None
        self._connections: int | None = None
        self._of_workers: set[str] = set()
        self._last_use = time.monotonic()

    def idle_seconds(self) -> float:
        """Look at the server and return the seconds since the last look that found a client.

        A client that came and went between two looks counts: the number of connections ever made grew.
        A server that does not answer counts as used: it may be stopped with clients waiting for it.
        """
        try:
            used = self._look()
        except (OSError, ServerSaidNo):
            self.forget()
            used = True
        if used:
            self._last_use = time.monotonic()
        return time.monotonic() - self._last_use

    def forget(self) -> None:
        """Hang up; the next look counts from new."""
        if self._line is not None:
            self._line.close()
        self._line = self._connections = None

    def forgive(self) -> None:
        """Take the connections made since the last look for those of workers that died."""
        try:
            self._connections = None if self._line is None else self._made()
        except (OSError, ServerSaidNo):
            self.forget()

    def _look(self) -> bool:
        if self._line is None:
            self._line = ServerLine(self._socket, name=CLIENT_NAME, timeout=1.0)
        connections = self._made()
        clients = [row.split(" ") for row in self._line.ask("CLIENT", "LIST").splitlines()]
        workers = {
            row[0] for row in clients if any(field.startswith(f"name={WORKERS_NAME}") for field in row)
        }
        others = len(clients) - len(workers) - 1
        visits = None if self._connections is None else connections - self._connections
        used = others > 0 or visits is None or visits > len(workers - self._of_workers)
        self._connections, self._of_workers = connections, workers
        return used

    def _made(self) -> int:
        assert self._line is not None
        return int(self._line.info("stats")["total_connections_received"])


class Keeper:
    """Runs one server until it is idle, is told to end, or is beyond help."""

    def __init__(self, plan: Plan, server_lock: int) -> None:
        self._plan = plan
        self._server_lock = server_lock
        self._server: subprocess.Popen[bytes] | None = None
        self._crashes: deque[float] = deque(maxlen=_MOST_CRASHES)
        self._use = UseWatch(plan.socket)
        self._workers = WorkersProcess(WorkerFiles(*plan.workers))
        self._told_to_end = False
        self._wake = wake_on_signals(self._be_told_to_end)

    def start(self) -> str | None:
        """Start the server and wait until it answers; return what went wrong, if anything did."""
        problem = self._start_server()
        if problem is None or self._server is None or self._server.poll() is None:
            return problem
        # The kill that ended it may have torn the last step in its file, which it then refuses.
        cut = cut_torn_end(self._plan.facts["data"])
        if cut is None:
            return problem
        say(cut)
        return self._start_server()

    def _start_server(self) -> str | None:
        remove(self._plan.socket)
        try:
            # The server inherits the lock on the data: should this process be killed, nobody can start
            # a second server on the same files before the first is really gone.
            self._server = start_server(
                self._plan.command,
                self._plan.log,
                death_signal=signal.SIGTERM,
                keep_open=[self._server_lock],
            )
        except OSError as error:
            return f"{self._plan.command[0]} cannot be started: {error}"
        # No deadline: loading a large data folder takes as long as it takes, the starter has its own.
        while not answers(self._plan.socket, name=CLIENT_NAME):
            if self._server.poll() is not None:
                return f"the server ended with code {self._server.returncode} while starting"
            if self._told_to_end:
                return "the keeper was told to end"
            self._pause(0.01)
        self._write_state(self._server.pid)
        return None

    def keep(self) -> None:
        """Return when the server is to be no more; it may still run."""
        tick = min(5.0, self._plan.idle_seconds / 4)
        while not self._told_to_end:
            due = self._workers.seconds_to_next_start()
            self._pause(tick if due is None else min(tick, due))
            self._look_after_workers()
            if not os.path.exists(self._plan.state):  # noqa: PTH110 - plain strings here
                say("the folder was removed, so nobody can find the broker any more, ending")
                return
            if self._server is not None and self._server.poll() is not None:
                if not self._start_again(self._server.returncode):
                    return
            elif self._use.idle_seconds() >= self._plan.idle_seconds and self._end_if_still_idle():
                return

    def leave(self) -> None:
        """End the server and remove what would lead somebody to it."""
        # First of all, while the server still answers: so they can say that they leave.
        self._workers.end()
        # Hung up first: a server that ends by itself would otherwise wait for nothing but this line.
        self._use.forget()
        if self._server is not None:
            end_server(self._server)
        for path in (self._plan.state, self._plan.socket, self._plan.pidfile):
            remove(path)

    def _look_after_workers(self) -> None:
        self._workers.look()
        if self._workers.died:
            # Or a set that dies again and again would keep the broker alive for ever.
            self._workers.died = False
            self._use.forgive()

    def _start_again(self, code: int) -> bool:
        self._use.forget()
        if code == 0:
            say("the server was shut down")
            return False
        self._crashes.append(time.monotonic())
        recent = [crash for crash in self._crashes if time.monotonic() - crash < _CRASH_WINDOW_SECONDS]
        if len(recent) == _MOST_CRASHES:
            say(f"the server ended {_MOST_CRASHES} times within {_CRASH_WINDOW_SECONDS:.0f} s, giving up")
            return False
        say(f"the server ended with code {code}, starting it again")
        problem = self.start()
        if problem is not None:
            say(problem)
        return problem is None

    def _end_if_still_idle(self) -> bool:
        # Everybody who looks for the broker holds this lock and connects while holding it. So either the
        # visit shows in the second look, or it comes after the end and starts a new server.
        with open(self._plan.start_lock, "ab") as lock:  # noqa: PTH123 - plain strings here
            if not locked(lock.fileno(), seconds=0):
                return False
            if self._use.idle_seconds() < self._plan.idle_seconds:
                return False
            say(f"nobody used the broker for {self._plan.idle_seconds:g} s, ending")
            self.leave()
            return True

    def _write_state(self, pid: int) -> None:
        facts = {**self._plan.facts, "pid": pid, "keeper_pid": os.getpid()}
        draft = self._plan.state + ".new"
        with open(draft, "w") as stream:  # noqa: PTH123 - plain strings here
            json.dump(facts, stream, indent=1)
        os.replace(draft, self._plan.state)  # noqa: PTH105 - plain strings here

    def _be_told_to_end(self) -> None:
        self._told_to_end = True

    def _pause(self, seconds: float) -> None:
        readable, _, _ = select.select([self._wake], [], [], seconds)
        if readable:
            os.read(self._wake, 4096)


def wake_on_signals(on_end: Any) -> int:
    """Ignore Ctrl-C, look around on SIGHUP, end on SIGTERM; return what is readable after any signal."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: on_end())
    for noticed in (signal.SIGCHLD, signal.SIGHUP):
        signal.signal(noticed, lambda *_: None)
    return reader


def locked(descriptor: int, *, seconds: float) -> bool:
    """Take a lock, waiting at most so long; False when somebody else keeps it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def remove(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)  # noqa: PTH108 - plain strings here
    except FileNotFoundError:
        return


def say(text: str) -> None:
    """Write a line to the log, which is standard error."""
    stamp = time.strftime("%d %b %Y %H:%M:%S")
    sys.stderr.write(f"{os.getpid()}:K {stamp} # {text}\n")
    sys.stderr.flush()


def tell_starter(text: str) -> None:
    """Give the starter its answer and let go of it; it may have been killed meanwhile."""
    try:
        os.write(1, text.encode() + b"\n")
    except OSError:
        say("the starter is gone")
    # From now on the log: a closed descriptor 1 would be given to the next file that is opened.
    os.dup2(2, 1)


def main() -> None:
    """Take the locks, start, keep, leave."""
    plan = Plan(**json.loads(sys.argv[1]))
    if os.fork() > 0:  # the starter waits for this process, and so has no child to care for later
        os._exit(0)
    keeper_lock = os.open(plan.keeper_lock, os.O_RDWR | os.O_CREAT, 0o600)
    if not locked(keeper_lock, seconds=_KEEPER_LOCK_SECONDS):
        return tell_starter("taken")
    # Whoever must end a keeper that has not written its state yet finds it here.
    os.truncate(keeper_lock, 0)
    os.write(keeper_lock, str(os.getpid()).encode())
    data_lock = os.open(plan.data_lock, os.O_RDWR | os.O_CREAT, 0o600)
    if not locked(data_lock, seconds=_DATA_LOCK_SECONDS):
        return tell_starter("failed: a server that lost its keeper still holds the data")
    keeper = Keeper(plan, data_lock)
    try:
        problem = keeper.start()
        tell_starter("ready" if problem is None else f"failed: {problem}")
        if problem is None:
            keeper.keep()
    finally:
        keeper.leave()
    return None


if __name__ == "__main__":
    main()
