"""Announcing dead letters on the log of ``system.errors``, each exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.dead_letters import LetterBox, RawLetter
from agentbus.broker.inspection.look import parse_id
from agentbus.broker.keys import addresses, channel_keys, inbox_keys
from agentbus.broker.scripts import Call, load, read_together, run
from agentbus.errors import BrokerError, BrokerUnavailable

#: The channel on which dead letters are announced.
CHANNEL = "system.errors"
#: Dead letters an address may have where its policy does not say; the scripts know the same number.
DEAD_LIMIT = 100_000
#: Letters announced in one call.
_BATCH = 100
#: Bodies that one look at the news brings along.
_MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LetterLook:
    """The dead letters of one address at one moment, as numbers."""

    address: str
    #: The last letter that was announced; empty when none was.
    cursor: str
    #: When the oldest one died that was not announced, in ms by the server's clock; None when all were.
    oldest_ms: int | None
    dead: int
    dead_limit: int
    dead_retries: int
    dead_retry_delay_ms: int | None


class Looks(NamedTuple):
    """What one look at some addresses found."""

    letters: Sequence[LetterLook]
    #: Addresses that could not be looked at, a key of another type say, and what the server said.
    refusals: Mapping[str, BrokerError]


@dataclass(frozen=True, slots=True)
class News:
    """Letters of one address that were not announced yet, oldest first."""

    letters: Sequence[RawLetter]
    #: The cursor once they are announced.
    cursor: str
    #: Entries of ``unannounced`` that are done with then.
    kept: Sequence[bytes]
    more: bool


class NoticeBoard:
    """Reads what is to be announced, and announces it."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._channel = channel_keys(prefix, CHANNEL)

    def box(self, address: str) -> LetterBox:
        """Return the dead letters of one address."""
        return LetterBox(self._broker, self._prefix, address)

    async def look(self, names: Sequence[str]) -> Looks:
        """Return how some addresses stand; two round trips, no bodies where there is nothing new."""
        if not names:
            return Looks((), {})
        cursors = [
            _text(cursor) for cursor in await self._broker.execute("HMGET", self._channel.cursors, *names)
        ]
        commands: list[tuple[Argument, ...]] = []
        for address, cursor in zip(names, cursors, strict=True):
            keys = inbox_keys(self._prefix, address)
            commands += [
                ("XLEN", keys.dead),
                ("XRANGE", keys.dead, _behind(cursor), "+", "COUNT", 1),
                ("XRANGE", keys.unannounced, "-", "+", "COUNT", 1),
                ("HMGET", keys.policy, "dead_limit", "dead_retries", "dead_retry_delay_ms"),
            ]
        replies = await self._broker.pipeline(commands)
        looks, refusals = [], {}
        for index, (address, cursor) in enumerate(zip(names, cursors, strict=True)):
            answers = replies[4 * index : 4 * index + 4]
            refusal = next((answer for answer in answers if isinstance(answer, BrokerError)), None)
            if isinstance(refusal, BrokerUnavailable):
                raise refusal
            if refusal is None:
                looks.append(_look(address, cursor, answers))
            else:
                refusals[address] = refusal
        return Looks(looks, refusals)

    async def news(self, address: str, cursor: str) -> News:
        """Return what is to be announced next.

        One transaction over ``dead`` and what is kept of letters that left it: read one after the other, a
        letter that leaves in between would be missed, or one that arrives be jumped over.
        """
        keys = inbox_keys(self._prefix, address)
        size = await self._page(keys.dead, cursor)
        dead, left = await read_together(
            self._broker,
            (keys.dead, keys.unannounced),
            [
                ("XRANGE", keys.dead, _behind(cursor), "+", "COUNT", size),
                ("XRANGE", keys.unannounced, "-", "+"),
            ],
        )
        for reply in (dead, left):
            if isinstance(reply, Exception):
                raise reply
        letters = {
            entry[0].decode(): RawLetter(address, entry[0].decode(), _fields(entry[1])) for entry in dead
        }
        more = len(dead) == size
        last = dead[-1][0].decode() if more else None
        gone: dict[bytes, str] = {}
        for entry_id, flat in left:
            fields = _fields(flat)
            died = _text(fields.pop("letter", None)) or "0-0"
            if last is not None and parse_id(died) > parse_id(last):
                continue
            gone[entry_id] = died
            if not cursor or parse_id(died) > parse_id(cursor):
                letters.setdefault(died, RawLetter(address, died, fields))
        order = sorted(letters, key=parse_id)
        batch = order[:_BATCH]
        new_cursor = batch[-1] if batch else cursor
        kept = [entry for entry, died in gone.items() if parse_id(died) <= parse_id(new_cursor or "0-0")]
        return News([letters[died] for died in batch], new_cursor, kept, more or len(order) > len(batch))

    async def _page(self, dead: str, cursor: str) -> int:
        """Return how many letters to read: bodies may be a megabyte each."""
        first = await self._broker.execute("XRANGE", dead, _behind(cursor), "+", "COUNT", 2)
        largest = max((sum(map(len, entry[1])) for entry in first), default=1)
        return max(1, min(_BATCH, _MOST_BYTES // max(1, largest)))

    async def announce(self, address: str, cursor: str, news: News, texts: Sequence[bytes]) -> bool:
        """Put notices on the channel and move the cursor; False when somebody else moved it before."""
        keys = (self._channel.log, self._channel.cursors, self._channel.ledger)
        await self._broker.execute("SADD", addresses(self._prefix), CHANNEL)
        reply = await run(self._broker, Call(load("notice"), keys, (address, cursor, news.cursor, *texts)))
        announced = bool(reply[0] == b"announced")
        if announced:
            await self.tidy(address, news)
        return announced

    async def tidy(self, address: str, news: News) -> None:
        """Tell the address how far its letters were announced, so that it keeps nothing more of them."""
        keys = inbox_keys(self._prefix, address)
        call = Call(
            load("announced"), (keys.ledger, keys.unannounced), (parse_id(news.cursor)[0], *news.kept)
        )
        await run(self._broker, call)


def _look(address: str, cursor: str, answers: Sequence[Any]) -> LetterLook:
    dead, first, left, policy = answers
    times = [parse_id(first[0][0])[0]] if first else []
    if left:
        fields = dict(zip(left[0][1][::2], left[0][1][1::2], strict=True))
        times.append(parse_id(fields.get(b"letter", b"0-0"))[0])
    limit, retries, delay = (_number(value) for value in policy)
    return LetterLook(
        address, cursor, min(times) if times else None, int(dead), limit or DEAD_LIMIT, retries or 0, delay
    )


def _behind(cursor: str) -> str:
    return f"({cursor}" if cursor else "-"


def _fields(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
