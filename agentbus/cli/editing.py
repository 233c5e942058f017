"""A text in the editor of the person at the terminal."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from agentbus.cli.session import USAGE, Failure, say


@asynccontextmanager
async def edited(text: str, command: str) -> AsyncIterator[str]:
    """Let the person change a text with an editor, and yield it changed.

    The file stays, and is named, when what is then done with the text fails: nobody should write it twice.
    Raises `Failure` when the editor cannot be started, fails, or changes nothing.
    """
    folder = Path(tempfile.mkdtemp(prefix="agentbus-"))
    file = folder / "body.json"
    try:
        file.write_text(f"{text}\n", encoding="utf-8")
        await _edit(file, command)
        changed = _read(file)
        if changed.strip() == text:
            raise Failure("nothing was changed, and nothing retried")
    except BaseException:
        shutil.rmtree(folder)
        raise
    try:
        yield changed
    except BaseException:
        say(f"what you wrote is kept in {file}")
        raise
    shutil.rmtree(folder)


async def _edit(file: Path, command: str) -> None:
    try:
        with _interrupts_left_to_the_editor():
            process = await asyncio.create_subprocess_exec(*shlex.split(command), str(file))
            code = await process.wait()
        if code != 0:
            raise Failure(f"the editor ended with code {code}: nothing was changed, and nothing retried")
    except (OSError, ValueError) as error:
        raise Failure(f"EDITOR: {command!r} cannot be started: {error}", USAGE) from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"what the editor saved cannot be read: {error}") from error


@contextmanager
def _interrupts_left_to_the_editor() -> Iterator[None]:
    """Ctrl-C reaches both of us; were we to end by it, the editor would fight with the shell for the keys."""
    # Not SIG_IGN, which the editor would inherit.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
