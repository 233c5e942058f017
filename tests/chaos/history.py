"""What every process writes down, line by line, so that a SIGKILL can tear at most its last line.

One file per process and one JSON object per line, each written by one unbuffered ``write`` to a file opened
with O_APPEND. A line without its end was torn: what it speaks of had not begun.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import orjson

SUFFIX = ".history"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a history.

    Events of publishers: ``attempt`` (before), then ``stored``, ``uncertain`` or ``refused``. Of agents:
    ``begin`` and ``end`` of a delivery, ``fenced``, ``data_lost``, ``gap``, ``copy_made_good`` in place of
    one that is gone, ``left`` when it served no more.
    Of people: ``asked`` for something to be done about a dead letter, then ``told`` what became of that. Of
    whoever breaks things: ``killed``, ``frozen``, ``broker_killed``, ``broker_started``.
    """

    event: str
    #: Seconds on the machine's monotonic clock, the same for all processes.
    at: float
    pid: int
    #: The message's own name, ``<writer>-<number>``: the same however often it is published.
    key: str = ""
    #: The id the bus gave it: another one for each publish.
    message_id: str = ""
    attempt: int = 0
    #: What the delivery said of itself: somebody may have run this message before.
    redelivered: bool = False
    #: Whether the publish carried an idempotency key: then it may be another one's message that is stored.
    idempotent: bool = False
    #: How a delivery ended, why a message was refused, what somebody wanted of a letter or was told.
    note: str = ""
    #: The id of a dead letter.
    letter: str = ""
    #: Of several agents: which one; of a sender's line: whom it speaks of, if not of the message itself.
    agent: str = ""
    #: The channel that a message was published on.
    channel: str = ""
    #: Its entry in the log, where it came from there; empty when it came by way of the agent's inbox.
    entry: str = ""
    #: Messages that were missing before it, as its handler was told.
    missed: int = 0
    #: Copies that were made good.
    copies: int = 0


_FIELDS = tuple(field.name for field in fields(Record))


class History:
    """The history of this process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._pid = os.getpid()
        path = folder / f"{name}-{self._pid}{SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **values: object) -> None:
        """Write one line."""
        os.write(self._file, self._line(event, values))

    def write_many(self, event: str, many: Iterable[dict[str, object]]) -> None:
        """Write one line for each item, all at once; an item may name another event of its own."""
        os.write(self._file, b"".join([self._line(event, values) for values in many]))

    def _line(self, event: str, values: dict[str, object]) -> bytes:
        line = {"event": event, "at": time.monotonic(), "pid": self._pid, **values}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_file(path: Path) -> Iterator[Record]:
    """Yield the records of one file; a torn last line is left out."""
    *lines, _torn_or_empty = path.read_bytes().split(b"\n")
    for line in lines:
        yield Record(**orjson.loads(line))


def read_folder(folder: Path, pattern: str = "*") -> list[Record]:
    """Return the records of all processes in the order of time."""
    records = [record for path in folder.glob(pattern + SUFFIX) for record in read_file(path)]
    return sorted(records, key=lambda record: record.at)
