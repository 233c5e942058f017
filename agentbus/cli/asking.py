"""Asks a person whether all of it is meant."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from agentbus.cli.session import USAGE, Failure


def ask(question: str, otherwise: str) -> None:
    """Return when a person says yes; raises `Failure` with ``otherwise``, or where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise Failure("say --yes: there is nobody to ask whether all of these are meant", USAGE)
    with _signals_at_once():
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise Failure(otherwise)


@contextmanager
def _signals_at_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a blocking read: the loop, which would see to them, does not run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
