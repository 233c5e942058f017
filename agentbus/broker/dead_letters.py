"""The dead letters of one address as Redis holds them, and what a person may do with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.keys import inbox_keys
from agentbus.broker.scripts import Call, load, run

#: Letters that one call of a script moves: some milliseconds of the server's time.
RETRY_BATCH = 100
_PAGE_BYTES = 1024 * 1024
_LARGEST_PAGE = 500
#: Entries that are searched for the end of a letter which is not there any more.
_MOST_SEARCHED = 20_000


@dataclass(frozen=True, slots=True)
class RawLetter:
    """One letter as it is stored: in ``dead`` or ``resolved``, or a message in ``due``."""

    address: str
    #: Its id in the stream, or its name in ``due``.
    entry_id: str
    fields: Mapping[str, bytes]
    #: Server time in ms at which it comes due; None for what is not in ``due``.
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RetriedLetter:
    """What became of one letter in a batch of retries."""

    entry_id: str
    #: ``retried``, ``gone``, ``malformed``, ``later`` or ``refused``.
    result: str
    #: ``retried``: lane and entry id; ``refused``: why.
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a letter that is not in ``dead`` any more left it."""

    #: ``retried``, ``resolved`` or ``dropped``.
    outcome: str
    at_ms: int
    by: str
    #: What was done about a resolved one.
    resolution: str = ""


class LetterBox:
    """The dead letters of one inbox."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self.address = address
        self.keys = inbox_keys(prefix, address)

    # --- looking ---

    async def find(self, entry_id: str) -> RawLetter | None:
        """Return one letter in ``dead``."""
        reply = await self._broker.execute("XRANGE", self.keys.dead, entry_id, entry_id)
        return self._letter(reply[0]) if reply else None

    async def last(self) -> str:
        """Return the id of the latest letter in ``dead``; ``0-0`` without any."""
        found = await self._broker.execute("XREVRANGE", self.keys.dead, "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"

    async def find_resolved(self, entry_id: str) -> RawLetter | None:
        """Return the resolved letter that had this id in ``dead``; reads the latest ones, newest first."""
        wanted, seen = entry_id.encode(), 0
        async for letter in self.walk("resolved"):
            if letter.fields.get("letter") == wanted:
                return letter
            seen += 1
            if seen >= _MOST_SEARCHED:
                break
        return None

    async def find_due(self, name: str) -> RawLetter | None:
        """Return one message in ``due``."""
        score = await self._broker.execute("ZSCORE", self.keys.due, name)
        if score is None:
            return None
        (letter,) = await self._due_letters([(name.encode(), score)])
        return letter

    async def walk(
        self, stream: str, after: str | None = None, *, newest_first: bool = True, until: str | None = None
    ) -> AsyncIterator[RawLetter]:
        """Yield letters of ``dead`` or ``resolved`` behind the entry ``after``; ``until`` ends an ascent."""
        key = self.keys.dead if stream == "dead" else self.keys.resolved
        position, size = f"({after}" if after else ("+" if newest_first else "-"), 10
        while True:
            bounds = (
                ("XREVRANGE", key, position, "-") if newest_first else ("XRANGE", key, position, until or "+")
            )
            entries = await self._broker.execute(*bounds, "COUNT", size)
            for entry in entries:
                yield self._letter(entry)
            if len(entries) < size:
                return
            position = f"({entries[-1][0].decode()}"
            # A page follows the size of the bodies: a megabyte, however many letters that is.
            average = sum(len(value) for entry in entries for value in entry[1]) // size + 1
            size = max(1, min(_LARGEST_PAGE, _PAGE_BYTES // average))

    async def walk_due(self, after: tuple[int, str] | None = None) -> AsyncIterator[RawLetter]:
        """Yield what is in ``due``, the next one first, behind (due time in ms, name)."""
        low, passed = (after[0], after) if after else (0, None)
        offset = 0
        while True:
            flat = await self._broker.execute(
                "ZRANGE", self.keys.due, low, "+inf", "BYSCORE", "LIMIT", offset, 100, "WITHSCORES"
            )
            found = list(zip(flat[::2], flat[1::2], strict=True))
            for letter in await self._due_letters(found):
                if passed is None or (letter.due_ms or 0, letter.entry_id) > passed:
                    yield letter
            if len(found) < 100:
                return
            offset += len(found)

    async def _due_letters(self, found: Sequence[tuple[bytes, bytes]]) -> list[RawLetter]:
        if not found:
            return []
        names = [field for name, _ in found for field in (name, name + b":state")]
        values = await self._broker.execute("HMGET", self.keys.delayed, *names)
        letters = []
        for (name, score), message, state in zip(found, values[::2], values[1::2], strict=True):
            fields = {"state": state or b""} | ({"message": message} if message else {})
            letters.append(RawLetter(self.address, name.decode(errors="replace"), fields, int(float(score))))
        return letters

    async def what_became_of(self, entry_id: str) -> Leaving | None:
        """Return how a letter left ``dead``; None when no record of it is left, or there never was one."""
        resolved = await self.find_resolved(entry_id)
        if resolved is not None:
            fields = {name: value.decode(errors="replace") for name, value in resolved.fields.items()}
            return Leaving(
                "resolved", _number(fields.get("resolved_at")), fields.get("resolved_by", ""),
                fields.get("resolution", ""),
            )  # fmt: skip
        wanted = entry_id.encode()
        async for record_id, named in self._records(self.keys.outcomes):
            if named.get(b"outcome") == b"redriven" and wanted in named.get(b"dead", b"").split():
                return Leaving(
                    "retried", _time_of(record_id), named.get(b"consumer", b"").decode(errors="replace")
                )
        async for ended_id, named in self._records(self.keys.ended):
            if named.get(b"letter") == wanted:
                # What retention ended says so in place of why it died.
                by = "retention" if named.get(b"reason") == b"retention" else ""
                return Leaving("dropped", _time_of(ended_id), by)
        return None

    async def _records(self, key: str) -> AsyncIterator[tuple[bytes, dict[bytes, bytes]]]:
        """Yield entries of a stream, newest first, as many as a person may be kept waiting for."""
        position, seen = "+", 0
        while seen < _MOST_SEARCHED:
            entries = await self._broker.execute("XREVRANGE", key, position, "-", "COUNT", 200)
            for record_id, flat in entries:
                yield record_id, dict(zip(flat[::2], flat[1::2], strict=True))
            if len(entries) < 200:
                return
            seen += len(entries)
            position = f"({entries[-1][0].decode()}"

    # --- doing ---

    async def retry(
        self, entry_ids: Sequence[str], by: str, *, automatic: bool = False, replacement: bytes = b""
    ) -> list[RetriedLetter]:
        """Hand letters out again, in calls of at most `RETRY_BATCH` letters and a megabyte.

        ``replacement`` is a new envelope for the only letter. A letter that is not in ``dead`` is ``gone``.
        """
        results: list[RetriedLetter] = []
        left = list(entry_ids)
        while left:
            batch = left[:RETRY_BATCH]
            answers = await self._retry_batch(batch, by, automatic, replacement)
            done = [answer for answer in answers if answer.result != "later"]
            results += done
            left = left[len(done) :]
        return results

    async def _retry_batch(
        self, batch: Sequence[str], by: str, automatic: bool, replacement: bytes
    ) -> list[RetriedLetter]:
        keys = self.keys
        counter = "automatic_retries" if automatic else "retries"
        reply = await self._run(
            "retry_letter",
            (keys.ledger, keys.dead, keys.lanes, keys.outcomes, keys.unannounced, *keys.priority_lanes),
            by, counter, replacement, *batch,
        )  # fmt: skip
        answers = []
        for entry_id, answer in zip(batch, reply, strict=True):
            result, _, detail = answer.decode(errors="replace").partition(" ")
            answers.append(RetriedLetter(entry_id, result, detail))
        return answers

    async def resolve(self, entry_id: str, by: str, note: str) -> bool:
        """End a letter that somebody took care of; False when it is not in ``dead``."""
        keys = self.keys
        reply = await self._run(
            "resolve", (keys.ledger, keys.dead, keys.resolved, keys.outcomes, keys.unannounced),
            by, entry_id, note,
        )  # fmt: skip
        return bool(reply[0] == b"resolved")

    async def drop(self, entry_id: str, by: str) -> bool:
        """End a letter that nobody wants; False when it is not in ``dead``."""
        keys = self.keys
        reply = await self._run(
            "drop", (keys.ledger, keys.dead, keys.ended, keys.outcomes, keys.unannounced), by, entry_id
        )
        return bool(reply[0] == b"dropped")

    async def _run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        return await run(self._broker, Call(load(name), keys, arguments))

    def _letter(self, entry: Sequence[Any]) -> RawLetter:
        entry_id, flat = entry
        fields = {
            name.decode(errors="surrogateescape"): value
            for name, value in zip(flat[::2], flat[1::2], strict=True)
        }
        return RawLetter(self.address, entry_id.decode(), fields)


async def server_ms(broker: Broker) -> int:
    """Return the server's clock: ids of letters are made from it."""
    time = await broker.execute("TIME")
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _time_of(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
