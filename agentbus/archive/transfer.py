"""From Redis into the archive: read what has ended, commit it, then move the position on.

Killed at any instruction, nothing is lost, because the position moves last; and nothing is there twice,
because what is written again has the name it had before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentbus.archive.writer import ArchiveWriter
from agentbus.broker.archiving import ArchivedAddress, ArchivedChannel, ArchivedInbox, Ended, Position

#: Records of one look; each may speak of a thousand entries.
_RECORDS = 200
#: One transaction takes about so much, of as many addresses as it takes to fill it.
_MOST_MESSAGES = 2_000
_MOST_BYTES = 8 * 1024 * 1024
_MOST_ADDRESSES = 500

#: Told of (action, address, detail).
Told = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class _Advance:
    """Where the position of an address goes once everything before it is committed."""

    source: ArchivedAddress
    start: str
    to: str
    committed: int
    missing: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look at an address brought."""

    any: bool
    #: Whether there may be more, after a `flush`: the next look begins where the position is.
    more: bool


@dataclass(slots=True)
class _Batch:
    """What was read and is not committed."""

    messages: list[Ended] = field(default_factory=list)
    size: int = 0
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether it is time to commit."""
        return len(self._seen) >= _MOST_MESSAGES or self.size >= _MOST_BYTES

    def add(self, messages: Sequence[Ended]) -> None:
        """Take messages in the order of their records: an entry ended by the first that lists it."""
        for message in messages:
            name = (message.address, message.stream, message.entry_id)
            if name not in self._seen:
                self._seen.add(name)
                self.size += message.size
                self.messages.append(message)


class Transfer:
    """Carries what has ended at several addresses in common transactions. `flush` ends a round."""

    def __init__(self, writer: ArchiveWriter, told: Told) -> None:
        self._writer = writer
        self._told = told
        self._batch = _Batch()
        self._advances: list[_Advance] = []
        #: Messages committed and new in the archive, since the beginning.
        self.added = 0

    async def take(self, source: ArchivedAddress) -> Taken:
        """Read the next part of an address."""
        position = await source.position()
        if isinstance(source, ArchivedChannel):
            return await self._take_log(source, position)
        return await self._take_ended(source, position)

    async def flush(self) -> None:
        """Commit what was read, then move the positions. After an error the round begins anew."""
        advances, self._advances = self._advances, []
        await self._commit()
        for each in advances:
            await each.source.advance(each.start, each.to, each.committed, each.missing)

    def reset(self) -> None:
        """Forget what was read and not committed."""
        self._batch, self._advances = _Batch(), []

    async def _take_ended(self, inbox: ArchivedInbox, position: Position) -> Taken:
        page = await inbox.records(position.to, _RECORDS)
        if not page.any and position.has_border:
            return Taken(False, False)
        found: Counter[tuple[int, int]] = Counter()
        async for messages in inbox.bodies(page.records):
            found.update((each.ended_ms, each.ended_seq) for each in messages)
            await self._add(messages)
        committed = sum(record.count for record in page.records)
        missing = sum(max(0, record.count - found[record.at]) for record in page.records)
        if missing:
            self._told(
                "archive_missing", inbox.address,
                f"{missing} messages had left Redis before they were archived, by hand or by retention "
                "before the archive was on",
            )  # fmt: skip
        await self._note(_Advance(inbox, position.to, page.to, committed, missing))
        return Taken(page.any, page.more)

    async def _take_log(self, channel: ArchivedChannel, position: Position) -> Taken:
        page = await channel.messages(position.to)
        if not page.messages:
            return Taken(False, False)
        await self._add(page.messages)
        await self._note(_Advance(channel, position.to, page.to, len(page.messages), 0))
        return Taken(True, page.more)

    async def _add(self, messages: Sequence[Ended]) -> None:
        self._batch.add(messages)
        if self._batch.full:
            # In the middle of a record: committed now, so that memory stays bounded; the position waits.
            await self._commit()

    async def _note(self, advance: _Advance) -> None:
        self._advances.append(advance)
        if len(self._advances) >= _MOST_ADDRESSES:
            await self.flush()

    async def _commit(self) -> None:
        batch, self._batch = self._batch, _Batch()
        written = await self._writer.write(batch.messages)
        self.added += written.added
        for message, reason in written.refused:
            self._told(
                "archive_refused", message.address,
                f"entry {message.entry_id} of {message.stream} is kept in the table `refused`: {reason}",
            )  # fmt: skip
