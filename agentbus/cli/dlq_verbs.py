"""What ``agentbus dlq`` does to dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agentbus.cli.asking import ask
from agentbus.cli.dlq_table import Asked
from agentbus.cli.editing import edited
from agentbus.cli.output import Output, plural
from agentbus.cli.session import FAILURE, NOT_FOUND, OK, USAGE, Failure, exit_code, open_bus, say
from agentbus.dead_letters import BulkRetry, DeadLetters
from agentbus.errors import AgentBusError, InvalidValue
from agentbus.settings import editor

if TYPE_CHECKING:
    from agentbus.bus import Bus

#: Letters between two lines of progress where no terminal shows it in place.
_STEP = 5_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How many letters are retried."""

    #: Letters a second; None = as fast as the server takes them.
    rate: float | None
    #: Whether nobody is to be asked.
    sure: bool


async def _each(
    ids: Sequence[str], done: str, verb: Callable[[DeadLetters, str], Awaitable[None]],
    *, url: str | None, prefix: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Do one thing to each letter; one that fails does not keep the others from it."""
    output, code = Output(as_json), OK
    async with open_bus(url, prefix) as bus:
        for id in ids:
            try:
                await verb(bus.dead_letters, id)
            except AgentBusError as error:
                say(f"agentbus: {error}")
                code = code or exit_code(error)
                continue
            if output.json:
                output.record({"id": id, "result": done})
            else:
                output.text(f"{done}  {id}", "green")
    return code


async def retry_named(ids: Sequence[str], *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Retry the letters that were named."""
    return await _each(
        ids, "retried", lambda letters, id: letters.retry(id), url=url, prefix=prefix, as_json=as_json
    )


async def resolve_named(
    ids: Sequence[str], note: str, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Resolve the letters that were named."""

    async def resolve(letters: DeadLetters, id: str) -> None:
        await letters.resolve(id, note)

    return await _each(ids, "resolved", resolve, url=url, prefix=prefix, as_json=as_json)


async def drop_named(ids: Sequence[str], *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Drop the letters that were named."""
    return await _each(
        ids, "dropped", lambda letters, id: letters.drop(id), url=url, prefix=prefix, as_json=as_json
    )


# --- many ---


async def retry_many(asked: Asked, pace: Pace, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Retry what matches, and show how far it is."""
    wanted, output = asked.filter(), Output(as_json)
    if not pace.sure:
        ask(f"retry dead letters ({wanted})?", "nothing was retried")
    stop = asyncio.Event()
    async with open_bus(url, prefix) as bus:
        with _stopping(stop):
            done = await bus.dead_letters.retry_all(wanted, pace.rate, progress=_Shown().show, stop=stop)
    if output.json:
        output.record(asdict(done))
    else:
        output.text(_told(done), "green" if done.complete else "yellow")
    return OK if done.complete and not done.refused else FAILURE


class _Shown:
    """Progress: in place on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._last = 0

    def show(self, done: BulkRetry) -> None:
        """Show how far it is."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done.retried:,} retried ")
            sys.stderr.flush()
        elif done.matched - self._last >= _STEP:
            self._last = done.matched
            say(f"{done.retried:,} retried")


@contextmanager
def _stopping(stop: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C end it between two batches, so that it can say how far it came."""
    loop = asyncio.get_running_loop()
    added = False
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        loop.add_signal_handler(signal.SIGINT, stop.set)
        added = True
    try:
        yield
    finally:
        if added:
            loop.remove_signal_handler(signal.SIGINT)
        if sys.stderr.isatty():
            say("")


def _told(done: BulkRetry) -> str:
    parts = [f"{plural(done.retried, 'dead letter')} retried"]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (done.gone, "gone meanwhile"),
            (done.malformed, "without a message (edit, resolve or drop them)"),
            (done.refused, "refused by the server"),
        )
        if number
    ]
    return ", ".join(parts) + ("" if done.complete else "; stopped before the end")


# --- another body ---


async def edit_one(
    id: str, body: str | None, type: str | None, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Give a letter another body and hand it out again."""
    output = Output(as_json)
    async with open_bus(url, prefix) as bus:
        if body is not None:
            await bus.dead_letters.edit(id, _parsed(_read(body)), type=type)
        else:
            async with edited(await _before(bus, id), _editor()) as text:
                await bus.dead_letters.edit(id, _parsed(text), type=type)
    if output.json:
        output.record({"id": id, "result": "retried"})
    else:
        output.text(f"retried  {id}", "green")
    return OK


def _read(body: str) -> str:
    return sys.stdin.read() if body == "-" else body


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidValue("body", f"is not JSON: {error}; a text is written with quotes") from error


def _editor() -> str:
    command = editor()
    if command is None or not sys.stdin.isatty():
        raise Failure("give the new body, or - for stdin; an editor needs EDITOR and a terminal", USAGE)
    return command


async def _before(bus: Bus, id: str) -> str:
    """Return the body to edit; it is looked at first, so that nobody edits what cannot be retried."""
    _editor()
    letter = await bus.dead_letters.get(id)
    if letter.status != "dead":
        raise Failure(f"{id} is not dead: it is {letter.status}", NOT_FOUND)
    content = {} if letter.message is None else letter.message.content
    if isinstance(content, bytes):
        raise Failure(f"{id} holds bytes, which no editor keeps as they are; retry, resolve or drop it")
    return json.dumps(content, indent=2, ensure_ascii=False, default=str)
