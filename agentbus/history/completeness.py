"""Whether anything is missing: what the books say against what is there."""

from __future__ import annotations

from datetime import UTC, datetime

from agentbus.broker.inspection.kept import LAST_OF_RECORD, Point, Window
from agentbus.broker.inspection.look import EntryId
from agentbus.errors import ArchiveTimeout
from agentbus.history.entry import HistoryGap
from agentbus.history.query import HistoryQuery
from agentbus.history.stores import ArchivedEnds, Shelf

#: Records counted to learn whether any is missing.
COUNTED_RECORDS = 200_000


class Completeness:
    """Names what is in neither store. Each check raises `ArchiveError` when the archive cannot be asked."""

    def __init__(self, shelf: Shelf, archive: ArchivedEnds | None, query: HistoryQuery) -> None:
        self._shelf = shelf
        self._archive = archive
        self._query = query

    async def at_seam(self, border: Point | None) -> HistoryGap | None:
        """Look for what is missing between the archive, which is read up to a border, and Redis."""
        oldest = (await self._shelf.ends.tally()).oldest
        if border is not None and oldest is not None and (*oldest, 0) > border:
            return await self._books(border, oldest)
        return None

    async def at_beginning(self, border: Point | None) -> HistoryGap | None:
        """Look for what was removed before the oldest message there is."""
        oldest = (await self._shelf.ends.tally()).oldest
        if border is not None and (oldest is None or (*oldest, 0) <= border):
            oldest = await self._oldest_archived()
        since = self._query.since_ms
        if since is not None and oldest is not None and oldest[0] < since:
            return None
        return await self._books(border, oldest)

    async def _oldest_archived(self) -> EntryId | None:
        assert self._archive is not None
        found = await self._archive.edge(self._shelf.address, newest=False)
        return None if found is None else found[:2]

    async def _books(self, border: Point | None, oldest: EntryId | None) -> HistoryGap | None:
        tally = await self._shelf.ends.tally()
        window = Window(border, (*tally.newest, LAST_OF_RECORD), False)
        found = await self._shelf.ends.count(window, COUNTED_RECORDS)
        archived = None if found is None else await self._count_archived(border)
        if found is None or archived is None:
            return HistoryGap(
                "unknown", "too many records to count, so whether older messages were removed is not known"
            )
        missing = tally.ended - found - archived
        if missing <= 0:
            return None
        verb = "were sent" if self._query.is_channel else "ended"
        before = "" if oldest is None else f" before {_shown(oldest[0])}"
        return HistoryGap("trimmed", f"{missing:,} message(s) that {verb}{before} were removed{self._by()}")

    def _by(self) -> str:
        if self._archive is None:
            return "; an archive, if there is one, was not asked (set AGENTBUS_ARCHIVE)"
        return ", and the archive does not have them"

    async def _count_archived(self, border: Point | None) -> int | None:
        if self._archive is None or border is None:
            return 0
        try:
            return await self._archive.count(self._shelf.address, Window(None, border, False))
        except ArchiveTimeout:
            # It answers, and has more than it can count in its time.
            return None


def _shown(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        # A hand-made entry id may claim any time.
        return f"{milliseconds} ms"
