"""Pages of the history of one address, across Redis and the archive.

The order is that of ends: of the records of outcomes, which never change and which the archive walks too. The
archive has everything up to its border, Redis everything after it, so each ended message is read from exactly
one of them, wherever it stands and whenever it moves. What has not ended has no place in that order: it is a
part of its own, before the newest end.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from agentbus.broker.inspection.kept import LAST_OF_RECORD, Kept, Point, Stretch, Window
from agentbus.broker.inspection.look import EntryId
from agentbus.errors import ArchiveError, InvalidValue
from agentbus.history.completeness import COUNTED_RECORDS, Completeness
from agentbus.history.cursor import Cursor, decode_cursor
from agentbus.history.entry import HistoryEntry, HistoryGap, HistoryPage, entry_of
from agentbus.history.query import HistoryQuery
from agentbus.history.stores import ArchivedEnds, Shelf

MOST_ENTRIES = 10_000
#: Messages read for one page when filters look into them.
_SCANNED = 5_000
#: Reads for one page: records of moves tell of no end and may be many.
_READS = 500
#: Seconds for one page when filters decide: an archive may have to look through millions of rows.
_SECONDS = 10.0
#: Messages of one read: a body may be a megabyte.
_CHUNK = 64


async def read_page(
    shelf: Shelf, archive: ArchivedEnds | None, query: HistoryQuery, limit: int, cursor: str | None
) -> HistoryPage:
    """Return one page; raises `InvalidValue` for a limit or cursor that is none."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST_ENTRIES:
        raise InvalidValue("limit", f"must be a whole number from 1 to {MOST_ENTRIES:,}, not {limit!r}")
    if cursor is None:
        return await _Page(shelf, archive, query, limit, None).read()
    place = decode_cursor(cursor, query)
    query = replace(query, since_ms=place.since_ms, until_ms=place.until_ms)
    return await _Page(shelf, archive, query, limit, place).read()


class _Page:
    """One page in the making."""

    def __init__(
        self,
        shelf: Shelf,
        archive: ArchivedEnds | None,
        query: HistoryQuery,
        limit: int,
        place: Cursor | None,
    ) -> None:
        self._shelf = shelf
        self._archive = archive
        self._query = query
        self._limit = limit
        self._completeness = Completeness(shelf, archive, query)
        self._until = time.monotonic() + _SECONDS
        self._is_first = place is None
        self._stages = list(query.stages if place is None else _rest(query.stages, place.stage))
        self._point: Point | None = None if place is None else place.point
        self._top: EntryId | None = None if place is None else place.top
        #: Whether what has not ended is listed on this page from its beginning.
        self._lists_from_begin = place is None
        self._entries: list[HistoryEntry] = []
        #: Stream and entry id of each entry, as its store names them.
        self._names: list[tuple[str, str]] = []
        self._gaps: dict[str, HistoryGap] = {}
        self._scanned = 0
        self._reads = 0
        self._removed = 0
        #: Up to here the archive is read; None: it is not.
        self._border: Point | None = None

    async def read(self) -> HistoryPage:
        """Read until the page is full, the budget is spent or there is no more."""
        self._border = await self._find_border()
        if self._top is None:
            newest = (await self._shelf.ends.tally()).newest
            # Above Redis' own newest record when Redis was emptied and the archive was not.
            self._top = newest if self._border is None else max(newest, self._border[:2])
        if self._is_first and self._query.oldest_first and "ended" in self._stages:
            await self._check(self._completeness.at_beginning)
        while self._stages and len(self._entries) < self._limit:
            if self._spent():
                self._gap("scan", "many messages were read and few match; go on with the cursor")
                break
            self._reads += 1
            await self._step()
        if self._removed:
            self._gap(
                "content",
                f"of {self._removed:,} ended message(s) only the end is known: the content was trimmed",
            )
        return HistoryPage(tuple(self._entries), self._next(), tuple(self._gaps.values()))

    def _spent(self) -> bool:
        if self._query.filters and self._reads and time.monotonic() >= self._until:
            return True
        return self._reads >= _READS or (self._query.reads_bodies and self._scanned >= _SCANNED)

    def _next(self) -> str | None:
        if not self._stages:
            return None
        query = self._query
        place = Cursor(self._stages[0], self._point, self._top, query.since_ms, query.until_ms)
        return place.encode(query)

    def _gap(self, kind: str, reason: str) -> None:
        self._gaps.setdefault(kind, HistoryGap(kind, reason))

    # --- stages ---

    async def _step(self) -> None:
        if self._stages[0] == "ended":
            await self._read_ended()
        else:
            await self._read_unended()

    async def _read_unended(self) -> None:
        assert self._shelf.unended is not None
        window = Window(None, None, not self._query.oldest_first).after(self._point)
        kept = await self._shelf.unended.read(self._stages[0], window, self._room())
        for one in kept:
            self._take(one, "redis")
        if kept:
            self._point = kept[-1].point
        else:
            await self._finish_stage()

    async def _finish_stage(self) -> None:
        finished = self._stages.pop(0)
        self._point = None
        follows = self._stages[0] if self._stages else None
        listed = finished != "ended" and "ended" in self._query.stages
        if listed and (follows == "ended" or follows is None):
            await self._account_for_moves(follows == "ended")

    async def _account_for_moves(self, ends_follow: bool) -> None:
        """See to what ended while it was listed as not ended, or before it could be."""
        ends = self._shelf.inbox_ends
        assert ends is not None and self._top is not None
        newest = (await ends.tally()).newest
        window = Window((*self._top, LAST_OF_RECORD), (*newest, LAST_OF_RECORD), False)
        ended = await ends.named(window, COUNTED_RECORDS) if newest > self._top else set()
        if ended and ends_follow and self._lists_from_begin:
            # All on this page: each is shown once, with its end.
            stay = [index for index, name in enumerate(self._names) if name not in ended]
            self._entries = [self._entries[index] for index in stay]
            self._names = [self._names[index] for index in stay]
            self._top = newest
        elif ended:
            self._gap(
                "moving",
                f"{len(ended):,} message(s) ended while these pages were read; ask again to see their end",
            )
        if ends_follow:
            self._point = (*self._top, LAST_OF_RECORD)

    # --- what has ended ---

    async def _read_ended(self) -> None:
        window = self._query.window.after(self._point)
        if self._query.oldest_first and self._top is not None:
            # What ends from now on belongs to the next query, or the last page would never come.
            window = window.capped((*self._top, LAST_OF_RECORD))
        if self._is_archived(window):
            stretch = await self._read_archive(window)
            if stretch is None:
                return
            if self._point == self._border and not self._query.oldest_first:
                await self._check(self._completeness.at_seam)
            await self._take_all(stretch, "archive")
        else:
            stretch = await self._shelf.ends.read(self._above_border(window), self._room())
            await self._take_all(stretch, "redis")

    async def _take_all(self, stretch: Stretch, where: str) -> None:
        for one in stretch.kept:
            self._take(one, where)
        if stretch.resume is not None:
            self._point = stretch.resume
        elif self._crosses(where):
            assert self._border is not None
            self._point = self._border
        else:
            if not self._query.oldest_first:
                await self._check(self._completeness.at_beginning)
            await self._finish_stage()

    def _crosses(self, where: str) -> bool:
        """Whether the other store has the rest."""
        if self._border is None:
            return False
        window = self._query.window
        if self._query.oldest_first:
            return where == "archive" and (window.below is None or window.below > self._border)
        return where == "redis" and (window.above is None or window.above < self._border)

    def _is_archived(self, window: Window) -> bool:
        if self._border is None:
            return False
        if self._query.oldest_first:
            return window.above is None or window.above < self._border
        # A point below the border's own is in the archive; the border itself stands after its record.
        return window.below is not None and window.below <= self._border

    def _above_border(self, window: Window) -> Window:
        if self._border is None or self._query.oldest_first:
            return window
        above = self._border if window.above is None else max(window.above, self._border)
        return Window(above, window.below, True)

    async def _read_archive(self, window: Window) -> Stretch | None:
        """Return the next archived ones; None when the archive is away: Redis is read in its stead."""
        assert self._archive is not None and self._border is not None
        try:
            return await self._archive.read(self._query, window.capped(self._border), self._room())
        except ArchiveError as error:
            self._lose_archive(error)
            return None

    # --- one message ---

    def _room(self) -> int:
        return min(_CHUNK, self._limit - len(self._entries))

    def _take(self, kept: Kept, where: str) -> None:
        self._scanned += 1
        if kept.text is None and kept.status == "ended" and self._query.outcome in (None, kept.outcome):
            self._removed += 1
        entry = entry_of(self._shelf.address, kept, where)
        if self._query.matches(entry.message, entry.outcome):
            self._entries.append(entry)
            self._names.append((kept.stream, kept.entry_id))

    # --- the archive ---

    async def _find_border(self) -> Point | None:
        if self._archive is None or "ended" not in self._stages:
            return None
        border = await self._shelf.archived_up_to()
        if border is not None:
            return border
        try:
            newest = await self._archive.edge(self._shelf.address, newest=True)
        except ArchiveError as error:
            self._lose_archive(error)
            return None
        if newest is None:
            return None
        # The archive has rows and Redis knows of none: it was emptied, or the archive's first rows are not
        # noted yet. Redis has everything since its oldest record, and the archive what is older.
        oldest = (await self._shelf.ends.tally()).oldest
        border = (*newest[:2], LAST_OF_RECORD)
        return border if oldest is None else min(border, (*oldest, -1))

    def _lose_archive(self, error: ArchiveError) -> None:
        self._border = None
        self._gap("archive", f"the archive cannot be reached, so only Redis was read: {error}")

    async def _check(self, check: Callable[[Point | None], Awaitable[HistoryGap | None]]) -> None:
        """Note what a check finds to be missing."""
        try:
            gap = await check(self._border)
        except ArchiveError as error:
            self._lose_archive(error)
            return
        if gap is not None and "archive" not in self._gaps:
            self._gaps.setdefault(gap.kind, gap)


def _rest(stages: tuple[str, ...], stage: str) -> tuple[str, ...]:
    return stages[stages.index(stage) :]
