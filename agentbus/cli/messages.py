"""Takes or watches messages for ``agentbus sub`` and ``agentbus tail``, and prints them."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.inbox_view import known_addresses
from agentbus.broker.inspection.tailing import Tail, TailedEntry
from agentbus.broker.keys import SOURCES
from agentbus.cli.output import Output, colour_of, moment, shown_content
from agentbus.cli.session import OK, TIMEOUT, agent_of, open_broker, open_bus, say, settings_with
from agentbus.errors import BrokerUnavailable, InvalidTopic, InvalidValue
from agentbus.message.backoff import Backoff
from agentbus.message.durations import readable, seconds
from agentbus.message.message import Message
from agentbus.message.topics import is_channel, parse_address
from agentbus.receive.delivery import Delivery


async def take_messages(
    name: str, count: int | None, timeout: str | None, *, url: str | None, prefix: str | None, as_json: bool
) -> int:
    """Take messages until ``count`` came, none came for ``timeout``, or Ctrl-C."""
    inbox = agent_of(name)
    patience = None if timeout is None else seconds(timeout, "timeout")
    output = Output(as_json)
    async with open_bus(url, prefix) as bus, bus.pulling(inbox) as puller:
        say(
            f"taking work from agent.{inbox}: what is printed here is processed, and nobody else gets it. "
            "Ctrl-C ends; `agentbus tail` only looks"
        )
        taken = 0
        while count is None or taken < count:
            delivery = await puller.next(patience)
            if delivery is None:
                say(f"agentbus: nothing came for {readable(patience or 0)}")
                return TIMEOUT
            await _print_and_settle(delivery, output)
            taken += 1
    return OK


async def _print_and_settle(delivery: Delivery, output: Output) -> None:
    """Print first, settle then: a reader of our output that has gone must not cost a message."""
    stream = SOURCES[delivery.entry.source]
    try:
        if output.json:
            output.record(
                {
                    "address": delivery.address, "stream": stream, "entry_id": delivery.entry_id,
                    "attempt": delivery.attempt, "message": dict(delivery.message.envelope),
                }
            )  # fmt: skip
        else:
            at = int(delivery.entry_id.partition("-")[0])
            _print_message(output, at, stream, delivery.message, f"attempt {delivery.attempt}")
    except BrokenPipeError:
        await delivery.release()
        raise
    await delivery.ack()


# --- looking only ---


@dataclass(frozen=True, slots=True)
class TailPlan:
    """What to look at."""

    pattern: str
    last: int
    follow: bool
    dead: bool
    count: int | None

    def parse(self) -> tuple[str, str]:
        """Return the address, and the pattern of message types, ``*`` for all."""
        parts = self.pattern.split(".", 2)
        if any(mark in "".join(parts[:2]) for mark in "*?["):
            raise InvalidTopic(
                "pattern", f"{self.pattern!r}: only the type may have a wildcard; name one inbox or channel"
            )
        try:
            address = parse_address(".".join(parts[:2]))
        except InvalidValue as error:
            raise InvalidTopic("pattern", f"in {self.pattern!r}, {error.problem}") from None
        return address, parts[2] if len(parts) > 2 else "*"


async def tail_messages(plan: TailPlan, *, url: str | None, prefix: str | None, as_json: bool) -> int:
    """Show the last messages of an inbox or a channel, then those that arrive."""
    address, types = plan.parse()
    if plan.dead and is_channel(address):
        raise InvalidValue("dead", f"{address} is a channel, which has no dead letters; leave out --dead")
    space = settings_with(prefix).prefix
    output = Output(as_json)
    async with open_broker(url) as broker:
        if address not in await known_addresses(broker, space):
            served = "" if is_channel(address) else ", and nobody has served it"
            say(f"note: nothing was ever sent to {address}{served}")
        shown = 0
        async for entry in _entries(broker, space, address, plan):
            kind = entry.message.message_type if entry.message is not None else ""
            if not fnmatch.fnmatchcase(kind, types):
                continue
            _print_entry(output, entry)
            shown += 1
            if shown == plan.count:
                break
    return OK


async def _entries(broker: Broker, prefix: str, address: str, plan: TailPlan) -> AsyncIterator[TailedEntry]:
    """Yield the last entries, then new ones; a broker that goes away is waited for."""
    view = Tail(broker, prefix, address, dead=plan.dead)
    try:
        for entry in await view.last(plan.last):
            yield entry
        backoff = Backoff()
        while plan.follow:
            try:
                async for entry in view.follow():
                    backoff.reset()
                    yield entry
            except BrokerUnavailable as error:
                if backoff.failures == 0:
                    say(f"note: {error}; waiting for it to come back")
                await view.close()
                await asyncio.sleep(max(0.2, backoff.next_pause()))
    finally:
        await view.close()


def _print_entry(output: Output, entry: TailedEntry) -> None:
    if output.json:
        record: dict[str, Any] = {
            "address": entry.address, "stream": entry.stream, "entry_id": entry.entry_id,
            "message": None if entry.message is None else dict(entry.message.envelope),
        }  # fmt: skip
        output.record(record | ({"state": entry.state} if entry.state else {}) | _other_fields(entry))
    elif entry.message is not None:
        note = entry.fields.get("reason", "") if entry.stream == "dead" else _history(entry.state)
        _print_message(output, entry.at_ms, entry.stream, entry.message, note)
    else:
        _print_line(output, entry.at_ms, entry.stream, f"{entry.entry_id} is no message: {entry.fields}")


def _other_fields(entry: TailedEntry) -> dict[str, Any]:
    return {"fields": entry.fields} if entry.fields else {}


def _history(state: dict[str, Any]) -> str:
    parts = [f"{name} {state[name]}" for name in ("attempt", "crashes") if state.get(name)]
    return ", ".join(parts)


def _print_message(output: Output, at_ms: int, stream: str, message: Message, note: str) -> None:
    sender = f" from {message.from_agent}" if message.from_agent else ""
    note = f" ({note})" if note and note != "attempt 1" else ""
    _print_line(
        output,
        at_ms,
        stream,
        f"{message.message_type}{sender}{note}  {shown_content(message)}",
        tail=message.message_id,
    )


def _print_line(output: Output, at_ms: int, stream: str, text: str, tail: str = "") -> None:
    from rich.text import Text

    line = Text.assemble(
        (moment(at_ms), "dim"), "  ", (f"{stream:<10}", colour_of(stream)), "  ", text, "  ", (tail, "dim")
    )
    output.console.print(line, soft_wrap=True)
