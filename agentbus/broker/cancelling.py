"""What an inbox holds that nobody has begun, and how it is cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.inspection.look import LARGEST, fields_of, format_id, parse_id
from agentbus.broker.inspection.walking import walk_stream
from agentbus.broker.keys import GROUP, SOURCES

#: Messages that one call of the script cancels: a few milliseconds of the server's time.
CANCEL_STEP = 100
_SCAN_STEP = 100
#: Copies of one message in ``due`` that are looked for: the server names each with one more ``+``.
_MOST_COPIES = 8


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a message waits or is due."""

    #: The lane's priority, ``returned`` or ``due``.
    stream: str
    #: Its entry id; its name in ``due``.
    entry_id: str
    #: The envelope as JSON text; empty when it has none.
    text: bytes

    @property
    def place(self) -> tuple[str, str]:
        """What ``cancel.lua`` calls it."""
        where = self.stream if self.stream == "due" else str(SOURCES.index(self.stream))
        return where, self.entry_id


class Cancelling:
    """The messages of one inbox that nobody has begun."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self._inbox = Inbox(broker, prefix, address)
        self._keys = self._inbox.keys

    async def due_named(self, message_id: str) -> list[Spot]:
        """Return what is due under a message id."""
        names = [message_id + "+" * copies for copies in range(_MOST_COPIES)]
        texts = await self._broker.execute("HMGET", self._keys.delayed, *names)
        return [Spot("due", name, text) for name, text in zip(names, texts, strict=True) if text is not None]

    async def due(self) -> AsyncIterator[Spot]:
        """Yield all that is due, some at a time."""
        cursor = b"0"
        while True:
            cursor, flat = await self._broker.execute(
                "HSCAN", self._keys.delayed, cursor, "COUNT", _SCAN_STEP
            )
            for name, text in zip(flat[::2], flat[1::2], strict=True):
                # The state of a message, x:state, comes along: it is no envelope, and matches nothing.
                yield Spot("due", name.decode(errors="replace"), text)
            if cursor == b"0":
                return

    async def waiting(self) -> AsyncIterator[Spot]:
        """Yield all that waits, stream by stream, each in its order."""
        for source, key in enumerate(self._keys.sources):
            after = await self._last_delivered(key)
            if after == format_id(LARGEST):
                continue
            async for entry_id, flat in walk_stream(self._broker, key, after):
                text = fields_of(flat or ()).get("message", b"")
                yield Spot(SOURCES[source], entry_id.decode(), text)

    async def cancel(self, by: str, spots: Sequence[Spot]) -> list[str]:
        """Cancel messages; returns for each ``cancelled``, ``marked`` (ends when its turn comes),
        ``held <consumer>``, ``gone`` or ``refused <why>``."""
        keys, answers = self._keys, list[str]()
        for start in range(0, len(spots), CANCEL_STEP):
            places = [part for spot in spots[start : start + CANCEL_STEP] for part in spot.place]
            reply = await self._inbox.run(
                "cancel",
                (
                    keys.ledger, keys.outcomes, keys.cancelled, keys.due, keys.delayed, keys.keys_due,
                    keys.ended, *keys.sources,
                ),
                by, *places,
            )  # fmt: skip
            answers += [answer.decode(errors="replace") for answer in reply]
        return answers

    async def _last_delivered(self, key: str) -> str | None:
        groups: Any = (await self._broker.pipeline([("XINFO", "GROUPS", key)]))[0]
        for group in () if isinstance(groups, Exception) else groups:
            fields = fields_of(group)
            if fields["name"] == GROUP.encode():
                return format_id(parse_id(fields["last-delivered-id"]))
        return None
