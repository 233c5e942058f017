"""``bus.dead_letters``: what a person can do with messages that failed for good."""

from __future__ import annotations

import asyncio
import builtins
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Unpack

from agentbus.broker.connection import Broker
from agentbus.broker.dead_letters import LetterBox, RetriedLetter, server_ms
from agentbus.broker.inspection.inbox_view import known_addresses
from agentbus.dead_letters.letter import (
    DeadLetter,
    DeadLetterPage,
    LetterId,
    dead_letter,
    entry_id,
    waiting_letter,
)
from agentbus.dead_letters.retrying import BulkRetry, BulkRetrying, Progress
from agentbus.dead_letters.selection import DeadLetterFilter, Where
from agentbus.errors import (
    BrokerRefused,
    DeadLetterError,
    DeadLetterResolved,
    InvalidValue,
    MalformedMessage,
    NoSuchDeadLetter,
)
from agentbus.message.codec import decode, encode, encode_body
from agentbus.message.durations import readable
from agentbus.message.topics import is_inbox

#: Makes a new message from topic and body, as publishing does, and returns its text.
Compose = Callable[[str, Any], bytes]
#: Letters of one page at most: bodies may be a megabyte each.
_MOST = 1_000
_LONGEST_NOTE = 4_000


class DeadLetters:
    """The dead letters of all inboxes; `Bus.dead_letters`."""

    def __init__(self, broker: Broker, prefix: str, by: str, compose: Compose, limit_bytes: int) -> None:
        self._broker = broker
        self._prefix = prefix
        self._by = by
        self._compose = compose
        self._limit_bytes = limit_bytes

    # --- looking ---

    async def list(
        self, address: str | None = None, *, limit: int = 50, after: str | None = None, **where: Unpack[Where]
    ) -> DeadLetterPage:
        """Return dead letters, address by address, newest first in each; those that come due soonest first.

        ``type``, ``reason``, ``sender``, ``since``, ``until`` and ``status`` (dead, retrying, parked,
        resolved) narrow it down. ``after`` is the ``next`` of the page before. Raises `InvalidValue`.
        """
        wanted = _filter(address, where)
        if not isinstance(limit, int) or not 1 <= limit <= _MOST:
            raise InvalidValue("limit", f"must be a whole number from 1 to {_MOST:,}, not {limit!r}")
        begin = _cursor(after, wanted)
        found: list[DeadLetter] = []
        position = ""
        for box in await self._boxes(wanted.address, begin.address if begin else None):
            passed = begin.place if begin and begin.address == box.address else None
            async for letter, place in self._letters(box, wanted, passed):
                if len(found) == limit:
                    return DeadLetterPage(tuple(found), position)
                found.append(letter)
                position = f"{box.address}|{place}"
        return DeadLetterPage(tuple(found))

    async def get(self, id: str) -> DeadLetter:
        """Return one letter, also one that is resolved or waits for its retry.

        Raises `NoSuchDeadLetter`, or `DeadLetterResolved` when it was retried or dropped.
        """
        letter_id = LetterId.parse(id)
        letter = await self._find(letter_id)
        if letter is None:
            resolved = None if letter_id.in_due else await self._box(letter_id).find_resolved(letter_id.entry)
            if resolved is None:
                raise await self._gone(letter_id, id)
            letter = dead_letter(resolved)
        return letter

    async def _boxes(self, address: str | None, first: str | None = None) -> builtins.list[LetterBox]:
        """Return the inboxes to look at, in their order, from ``first`` on."""
        names = [address] if address else await known_addresses(self._broker, self._prefix)
        return [
            LetterBox(self._broker, self._prefix, name)
            for name in names
            if is_inbox(name) and (first is None or name >= first)
        ]

    async def _letters(
        self, box: LetterBox, wanted: DeadLetterFilter, passed: str | None
    ) -> AsyncIterator[tuple[DeadLetter, str]]:
        """Yield what fits at one address, behind a place, each with its own place."""
        now = await server_ms(self._broker)
        since, until = wanted.span(now)
        if wanted.waits:
            due, _, name = (passed or "").partition(" ")
            async for raw in box.walk_due((int(due), name) if passed else None):
                waiting = waiting_letter(raw)
                if waiting is not None and waiting.status == wanted.status and wanted.fits(waiting):
                    yield waiting, f"{raw.due_ms} {raw.entry_id}"
            return
        async for raw in box.walk(wanted.status, passed):
            letter = dead_letter(raw)
            died = int(LetterId.parse(letter.id).entry.partition("-")[0])
            if wanted.status == "dead" and died < since:
                return
            if since <= died and (until is None or died <= until) and wanted.fits(letter):
                yield letter, raw.entry_id

    async def _find(self, letter_id: LetterId) -> DeadLetter | None:
        box = self._box(letter_id)
        if letter_id.in_due:
            due = await box.find_due(letter_id.entry)
            return None if due is None else waiting_letter(due)
        raw = await box.find(letter_id.entry)
        return None if raw is None else dead_letter(raw)

    def _box(self, letter_id: LetterId) -> LetterBox:
        return LetterBox(self._broker, self._prefix, letter_id.address)

    # --- handing out again ---

    async def retry(self, id: str) -> None:
        """Hand a letter out again with a fresh budget of retries.

        Asked twice, or by two people at once, it becomes one message: the second one gets
        `DeadLetterResolved`. Raises `NoSuchDeadLetter`, and `DeadLetterError` for one that holds no message.
        """
        letter_id, letter = await self._dead(id)
        if letter.message is None:
            raise DeadLetterError(
                f"{id} holds no valid message ({letter.detail}) and would die again; edit, resolve or drop it"
            )
        await self._retry_one(letter_id, id, b"")

    async def edit(self, id: str, body: Any, *, type: str | None = None) -> None:
        """Hand a letter out again with another body: the same message otherwise.

        One that held no message becomes a new one; if its type is not known, say ``type``. Raises as `retry`
        does, and `InvalidValue` for a body that cannot be sent.
        """
        letter_id, letter = await self._dead(id)
        await self._retry_one(letter_id, id, self._edited(letter, body, type))

    def _edited(self, letter: DeadLetter, body: Any, type: str | None) -> bytes:
        if letter.message is None:
            if type is None:
                raise InvalidValue(
                    "type", f"{letter.id} held no message; say the type of the new one, such as task"
                )
            return self._compose(f"{letter.address}.{type}", body)
        message = letter.message
        envelope = {**message.envelope, "body": encode_body(body, message.context, message.metadata)}
        if type is not None:
            envelope["message_type"] = type
        text = encode(envelope, self._limit_bytes)
        try:
            decode(text)
        except MalformedMessage as error:
            raise InvalidValue("body", f"makes no valid message: {error}") from error
        return text

    async def _retry_one(self, letter_id: LetterId, id: str, replacement: bytes) -> None:
        (answer,) = await self._box(letter_id).retry([letter_id.entry], self._by, replacement=replacement)
        await self._check(answer, letter_id, id)

    async def _check(self, answer: RetriedLetter, letter_id: LetterId, id: str) -> None:
        if answer.result == "gone":
            raise await self._gone(letter_id, id)
        if answer.result == "refused":
            raise BrokerRefused(f"{id} stays a dead letter: {answer.detail}")

    async def retry_all(
        self,
        filter: DeadLetterFilter,
        rate: float | None = None,
        *,
        progress: Progress | None = None,
        stop: asyncio.Event | None = None,
    ) -> BulkRetry:
        """Hand out again what matches and is dead now; what dies again meanwhile is left alone.

        ``rate`` is in letters a second; None = as fast as the server takes them. ``progress`` is told after
        each batch. Setting ``stop`` ends it early, with what was done so far as answer. Raises
        `NoSuchDeadLetter` when nothing matches.
        """
        if filter.status != "dead":
            raise InvalidValue("status", f"only dead letters can be retried, not {filter.status} ones")
        _check_rate(rate)
        now = await server_ms(self._broker)
        retrying = BulkRetrying(self._by, rate, progress, stop)
        for box in await self._boxes(filter.address):
            if retrying.stopped:
                return retrying.done
            await retrying.run(box, filter, now)
        done = retrying.finished()
        if not done.matched and done.complete:
            raise NoSuchDeadLetter(f"no dead letter matches: {filter}")
        return done

    # --- ending ---

    async def resolve(self, id: str, note: str) -> None:
        """End a letter that somebody took care of; ``note`` says how. Raises as `retry` does."""
        if not isinstance(note, str) or not note.strip() or len(note) > _LONGEST_NOTE:
            raise InvalidValue("note", f"must say what was done, in 1 to {_LONGEST_NOTE:,} characters")
        letter_id = await self._not_waiting(id)
        if not await self._box(letter_id).resolve(letter_id.entry, self._by, note):
            raise await self._gone(letter_id, id)

    async def drop(self, id: str) -> None:
        """End a letter that nobody wants; it counts as discarded. Raises as `retry` does."""
        letter_id = await self._not_waiting(id)
        if not await self._box(letter_id).drop(letter_id.entry, self._by):
            raise await self._gone(letter_id, id)

    # --- what is not there ---

    async def _dead(self, id: str) -> tuple[LetterId, DeadLetter]:
        letter_id = await self._not_waiting(id)
        letter = await self._find(letter_id)
        if letter is None:
            raise await self._gone(letter_id, id)
        return letter_id, letter

    async def _not_waiting(self, id: str) -> LetterId:
        """Return the halves of an id; a message that waits for its retry is not in anybody's hands."""
        letter_id = LetterId.parse(id)
        if letter_id.in_due:
            letter = await self._find(letter_id)
            if letter is None:
                raise NoSuchDeadLetter(f"{id} does not wait any more")
            what = (
                "is tried again by itself"
                if letter.status == "retrying"
                else "waits for room in the dead letters"
            )
            raise NoSuchDeadLetter(f"{id} is not dead: it {what} at {letter.next_retry_at}")
        return letter_id

    async def _gone(self, letter_id: LetterId, id: str) -> NoSuchDeadLetter:
        leaving = None if letter_id.in_due else await self._box(letter_id).what_became_of(letter_id.entry)
        if leaving is None:
            return NoSuchDeadLetter(f"there is no dead letter {id}; `agentbus dlq ls` shows those there are")
        ago = readable(max(0, await server_ms(self._broker) - leaving.at_ms) / 1000)
        by = f" by {leaving.by}" if leaving.by else ""
        note = f": {leaving.resolution}" if leaving.resolution else ""
        return DeadLetterResolved(f"{id} was {leaving.outcome} {ago} ago{by}{note}", outcome=leaving.outcome)


def _check_rate(rate: float | None) -> None:
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise InvalidValue("rate", f"must be letters a second, more than 0, not {rate!r}; left out: no limit")


def _filter(address: str | None, where: Where) -> DeadLetterFilter:
    unknown = where.keys() - Where.__annotations__.keys()
    if unknown:
        raise InvalidValue(sorted(unknown)[0], f"is no filter; those are {sorted(Where.__annotations__)}")
    return DeadLetterFilter(address=address, **where)


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The last letter of a page: its address, and its place there."""

    address: str
    #: An entry id; of what waits in ``due``: its time in ms, a space, its name.
    place: str


def _cursor(after: str | None, wanted: DeadLetterFilter) -> _Cursor | None:
    if after is None:
        return None
    address, _, place = after.partition("|") if isinstance(after, str) else ("", "", "")
    if wanted.waits:
        due, space, _ = place.partition(" ")
        sound = bool(space) and due.isascii() and due.isdigit()
    else:
        sound = entry_id(place) is not None
    if not address or not sound:
        raise InvalidValue(
            "after", f"{after!r} is no cursor of {wanted.status} letters; give the `next` of the page before"
        )
    return _Cursor(address, place)
