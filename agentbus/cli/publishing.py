"""Sends what ``agentbus pub`` was given, and says what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agentbus.cli.output import Output, plain, plural
from agentbus.cli.session import FAILURE, OK, TIMEOUT, explain, open_bus, say
from agentbus.cli.stdin_lines import NumberedLine, read_chunks
from agentbus.errors import AgentBusError, InvalidValue
from agentbus.message.durations import seconds
from agentbus.message.topics import parse_topic
from agentbus.send.envelope import MessageOptions, PublishOptions
from agentbus.send.stored import Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentbus.bus import Bus

#: Refused lines that are named one by one.
_NAMED_REFUSALS = 10


def read_body(text: str | None, *, as_text: bool) -> Any:
    """Return the content of one message: JSON, or text as it stands. ``-`` reads stdin."""
    if text == "-":
        text = sys.stdin.read()
        if as_text:
            return text.removesuffix("\n")
    if text is None:
        return "" if as_text else None
    return text if as_text else _parsed(text)


def read_object(name: str, text: str) -> dict[str, Any]:
    """Return the JSON object in the text of an option; raises `InvalidValue`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidValue(name, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidValue(name, 'must be a JSON object such as {"repo": "core"}')
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        shown = text if len(text) <= 40 else text[:39] + "…"
        raise InvalidValue(
            "body", f"{shown!r} is not JSON ({error}); write it as JSON, or add --text"
        ) from None


@dataclass(frozen=True, slots=True)
class Sending:
    """One run of ``agentbus pub``."""

    topic: str
    options: MessageOptions
    timeout: str
    url: str | None
    prefix: str | None
    sender: str | None
    as_json: bool

    async def one(self, content: Any) -> int:
        """Send one message."""
        options: PublishOptions = {**self.options, "deadline": seconds(self.timeout, "timeout")}
        async with open_bus(self.url, self.prefix, self.sender) as bus:
            stored = await bus.publish(self.topic, content, **options)
        self._show(stored)
        return OK

    async def request(self, content: Any) -> int:
        """Send one message, wait for its answer, and print that."""
        async with open_bus(self.url, self.prefix, self.sender) as bus:
            answer = await bus.request(self.topic, content, timeout=self.timeout, **self.options)
        _print_json(answer)
        return OK

    async def stream(self, content: Any) -> int:
        """Send one message, and print the parts of its answer as they come."""
        async with open_bus(self.url, self.prefix, self.sender) as bus:
            stream = bus.stream(self.topic, content, timeout=self.timeout, **self.options)
            async with contextlib.aclosing(stream) as parts:
                async for part in parts:
                    _print_json(part)
        return OK

    async def collect(self, content: Any) -> int:
        """Ask a channel, print every answer as it comes, and name those who said nothing."""
        async with open_bus(self.url, self.prefix, self.sender) as bus:
            asking = bus.collecting(self.topic, content, deadline=self.timeout, **self.options)
            async for answer in asking:
                _print_json(asdict(answer))
        if not asking.asked:
            say(f"note: nobody subscribes to {parse_topic(self.topic).address}")
        if asking.missing:
            say(f"note: no answer from {', '.join(asking.missing)}")
        return OK if asking.complete else TIMEOUT

    async def many(self, *, as_text: bool) -> int:
        """Send every line of stdin; refused ones are named, and make the exit code 1."""
        output = Output(self.as_json)
        sent = refused = 0
        async with open_bus(self.url, self.prefix, self.sender) as bus:
            with _progress() as advance:
                async for chunk in read_chunks():
                    for number, result in await self._send_chunk(bus, chunk, as_text):
                        if isinstance(result, Stored):
                            sent += 1
                            if output.json:
                                output.record(result._asdict())
                        else:
                            refused += 1
                            _name_refusal(number, result, refused)
                    advance(chunk, sent)
        if not output.json:
            output.text(
                f"{plural(sent, 'message')} sent to {self.topic}"
                + (f", {refused:,} refused" if refused else "")
            )
        return FAILURE if refused else OK

    async def _send_chunk(
        self, bus: Bus, chunk: list[NumberedLine], as_text: bool
    ) -> list[tuple[int, Stored | Exception]]:
        results: list[tuple[int, Stored | Exception]] = []
        numbers, contents = [], []
        for number, line in chunk:
            if not line.strip():
                continue
            try:
                contents.append(line if as_text else _parsed(line.strip()))
                numbers.append(number)
            except InvalidValue as error:
                results.append((number, error))
        options: PublishOptions = {**self.options, "deadline": seconds(self.timeout, "timeout")}
        stored = await bus.publish_many(self.topic, contents, **options)
        return sorted([*results, *zip(numbers, stored, strict=True)], key=lambda pair: pair[0])

    def _show(self, stored: Stored) -> None:
        output = Output(self.as_json)
        if output.json:
            output.record(stored._asdict())
            return
        place = f"entry {stored.entry_id}" if stored.entry_id else "not in a lane yet"
        if stored.duplicate:
            output.text(f"stored before under this key in {stored.address}: {place}", "yellow")
        elif stored.entry_id is None:
            output.text(
                f"{stored.message_id}  is due later at {stored.address}, durability {stored.durability}"
            )
        else:
            output.text(f"{stored.message_id}  in {stored.address}, {place}, durability {stored.durability}")
        if not stored.known:
            say(f"note: nobody has ever served {stored.address}; the message waits until somebody does")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=plain) + "\n")
    sys.stdout.flush()


def _name_refusal(number: int, error: Exception, refused: int) -> None:
    if refused <= _NAMED_REFUSALS:
        text = explain(error) if isinstance(error, AgentBusError) else str(error)
        say(f"agentbus: line {number}: {text}")
    elif refused == _NAMED_REFUSALS + 1:
        say("agentbus: further refused lines are only counted")


@contextmanager
def _progress() -> Iterator[Callable[[list[NumberedLine], int], None]]:
    """Show how far it is, on a terminal; a file on stdin also tells how much there is."""
    if not sys.stderr.isatty():
        yield lambda _chunk, _sent: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    facts = os.fstat(sys.stdin.fileno())
    total = facts.st_size if stat.S_ISREG(facts.st_mode) else None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=total)

        def advance(chunk: list[NumberedLine], sent: int) -> None:
            size = sum(len(line.encode()) + 1 for _, line in chunk)
            progress.update(task, advance=size, description=f"{sent:,} sent")

        yield advance
