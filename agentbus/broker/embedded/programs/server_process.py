"""Starts a server as a child that does not outlive its parent, and ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1


def start_server(
    command: Sequence[str], log: str, *, death_signal: signal.Signals, keep_open: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a server that writes to ``log`` and, on Linux, gets ``death_signal`` when this process dies.

    Elsewhere there is no such signal: there the server outlives a parent that was ended by SIGKILL.
    Must be called from a program with one thread: the kernel sends the signal when the *thread* that
    started the child ends, and code between fork and exec may deadlock when other threads exist.
    """
    with open(log, "ab") as stream:  # noqa: PTH123 - paths are plain strings in these programs
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(keep_open),
            umask=0o077,
            preexec_fn=_die_with_parent(death_signal),
        )


def end_server(server: subprocess.Popen[bytes], *, seconds: float = 3.0) -> None:
    """Ask the server to end, and kill it if it has not within ``seconds``."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:  # some small Python builds leave it out
        return None
    # Loaded before the fork: between fork and exec as little as possible may happen.
    library: Any = ctypes.CDLL(None)
    parent = os.getpid()

    def ask_for_signal() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # it died before the signal was asked for
            os._exit(1)

    return ask_for_signal
