"""Cuts the append-only file of a server that was killed after its last whole step.

A SIGKILL tears the write it meets, and so the last step in the file. With ``aof-load-truncated yes`` Redis
(7.0.15, for one) cuts such a file after the last whole *command*: a MULTI without its EXEC stays there, what
the server appends from then on comes to stand in it, and the start after the next one carries out the first
half of a step that nobody was ever told of. So servers are started with ``no``: they refuse such a file,
and it is cut here, before the MULTI.
"""

from __future__ import annotations

import mmap
import os

#: Where servers of ours keep it, below their data folder.
_FOLDER, _MANIFEST = "appendonlydir", "appendonly.aof.manifest"


class _Torn(Exception):
    """The text ends in the middle of a command."""


class _Unknown(Exception):
    """This is no text of commands: nothing here may be touched."""


def cut_torn_end(data: str) -> str | None:
    """Cut the file in the folder ``data`` that was written last; tell what went, None if nothing had to.

    Nobody may write to it meanwhile. A file that is damaged elsewhere than at its end stays as it is.
    """
    path = _written_last(data)
    if path is None:
        return None
    try:
        with open(path, "r+b") as file:  # noqa: PTH123 - plain strings in these programs
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                size, whole = len(text), whole_steps(text)
            if whole is None or whole == size:
                return None
            file.truncate(whole)
            os.fsync(file.fileno())
    except (FileNotFoundError, ValueError):
        # An empty file cannot be mapped.
        return None
    return f"{path} ended in the middle of a step: cut from {size} to {whole} bytes"


def whole_steps(text: bytes | mmap.mmap) -> int | None:
    """Return where the last whole step ends: a command, or all from MULTI to EXEC; None if it is damaged."""
    position = steps_end = 0
    inside = False
    try:
        while position < len(text):
            word, position = _next_command(text, position)
            if word == b"MULTI":
                inside = True
            elif word == b"EXEC":
                inside = False
            if not inside:
                steps_end = position
    except _Torn:
        pass
    except _Unknown:
        return None
    return steps_end


def _next_command(text: bytes | mmap.mmap, position: int) -> tuple[bytes, int]:
    """Return the name of the command that begins there, empty for a remark, and where it ends."""
    if text[position : position + 1] == b"#":
        return b"", _line_end(text, position)
    count, position = _number(text, position, b"*")
    name = b""
    for index in range(count):
        length, position = _number(text, position, b"$")
        end = position + length + 2
        if end > len(text):
            raise _Torn
        if index == 0:
            name = text[position : position + length].upper()
        position = end
    return name, position


def _number(text: bytes | mmap.mmap, position: int, mark: bytes) -> tuple[int, int]:
    end = _line_end(text, position)
    digits = text[position + 1 : end - 2]
    if text[position : position + 1] != mark or not digits.isdigit():
        raise _Unknown
    return int(digits), end


def _line_end(text: bytes | mmap.mmap, position: int) -> int:
    end = text.find(b"\r\n", position, position + 256)
    if end >= 0:
        return end + 2
    if len(text) - position < 256:
        raise _Torn
    raise _Unknown


def _written_last(data: str) -> str | None:
    """Return the last file of the manifest that grows: one that is written in one go is never torn."""
    folder = f"{data}/{_FOLDER}"
    try:
        with open(f"{folder}/{_MANIFEST}") as manifest:  # noqa: PTH123 - plain strings in these programs
            # file <name> seq <number> type <i, b or h>
            lines = [line.split() for line in manifest if line.startswith("file ")]
    except FileNotFoundError:
        return None
    names = [line[1] for line in lines if line[-1] == "i"]
    return f"{folder}/{names[-1]}" if names else None
