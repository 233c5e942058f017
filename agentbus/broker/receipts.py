"""Receipts of one message: what became of it at each of its recipients, as Redis holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentbus.broker import keys
from agentbus.broker.connection import Broker
from agentbus.broker.scripts import Call, load, run, run_all

#: How long receipts are kept after the message was sent.
KEPT_MS = 7 * 86_400_000
#: Fields of a row that are points in time.
_TIMES = ("stored", "delivered", "read", "processed")
#: Marks in one call: Lua holds all of them at once.
_MOST_MARKS = 2_000

#: Field to value of some rows of one message; None stands for now, by the server's clock.
Marks = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One recipient; times in ms by the server's clock, None until it happened."""

    agent: str
    stored: int | None = None
    delivered: int | None = None
    read: int | None = None
    processed: int | None = None
    #: Why it was not stored; a later attempt may have stored it all the same.
    unstored: str | None = None
    #: How it ended without being processed.
    ended: str | None = None
    #: ``<lane> <entry id>`` in its inbox, where it is known.
    entry: str | None = None
    #: Whether the recipient said that it was read and needs no reply.
    acknowledged: bool = False

    @property
    def open(self) -> bool:
        """Whether it may still change."""
        return self.processed is None and self.ended is None


@dataclass(frozen=True, slots=True)
class Rows:
    """All recipients of one message."""

    message_id: str
    sender: str | None
    channel: str | None
    rows: tuple[Row, ...]


def field_of(agent: str, what: str) -> str:
    """Return the field of one mark of one recipient."""
    return f"{agent}:{what}"


class ReceiptStore:
    """Reads and writes receipts."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix

    async def open(
        self, message_id: str, recipients: Sequence[str], sender: str | None, channel: str | None
    ) -> None:
        """Open the receipts of a message that is about to be sent."""
        arguments = (KEPT_MS, json.dumps(recipients), sender or "", channel or "")
        await run(self._broker, Call(load("receipt_open"), (self._key(message_id),), arguments))

    async def mark(self, marks: Mapping[str, Marks]) -> None:
        """Note marks of several messages, by message id; the first time of each wins."""
        calls = [
            Call(load("receipt_mark"), (self._key(message_id),), words)
            for message_id, fields in marks.items()
            for words in _words(fields)
        ]
        for reply in await run_all(self._broker, calls):
            if isinstance(reply, Exception):
                raise reply

    async def read(self, message_id: str) -> Rows | None:
        """Return the rows of a message in the order of its recipients; None when none are kept."""
        flat = await self._broker.execute("HGETALL", self._key(message_id))
        if not flat:
            return None
        pairs = zip(flat[::2], flat[1::2], strict=True)
        fields = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs}
        return _rows_of(message_id, fields)

    def _key(self, message_id: str) -> str:
        return keys.receipts(self._prefix, message_id)


def _words(fields: Marks) -> list[list[str | int]]:
    words = [("" if value is None else value, field) for field, value in fields.items()]
    return [
        [word for value, field in words[begin : begin + _MOST_MARKS] for word in (field, value)]
        for begin in range(0, len(words), _MOST_MARKS)
    ]


def _rows_of(message_id: str, fields: Mapping[str, str]) -> Rows:
    rows = {agent: Row(agent) for agent in _recipients(fields.get("recipients", ""))}
    for field, value in fields.items():
        agent, colon, what = field.partition(":")
        if colon:
            # Sent again under the same id to somebody else: the list is that of the first time.
            rows[agent] = _with(rows.get(agent, Row(agent)), what, value)
    return Rows(message_id, fields.get("from") or None, fields.get("channel") or None, tuple(rows.values()))


def _with(row: Row, what: str, value: str) -> Row:
    change: dict[str, Any] = {}
    if what in _TIMES:
        change[what] = int(value) if value.isdigit() else None
    elif what in ("unstored", "ended", "entry"):
        change[what] = value
    elif what == "acknowledged":
        change[what] = True
    return replace(row, **change)


def _recipients(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [str(agent) for agent in found] if isinstance(found, list) else []
