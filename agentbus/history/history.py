"""The history of addresses, as a bus offers it."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator

from agentbus.broker.connection import Broker
from agentbus.broker.dead_letters import server_ms
from agentbus.broker.inspection import known_addresses
from agentbus.errors import ArchiveError, NoSuchAddress
from agentbus.history.entry import HistoryPage
from agentbus.history.pages import MOST_ENTRIES, read_page
from agentbus.history.query import HistoryFilters, HistoryQuery, counts_from_now, new_query
from agentbus.history.stores import ArchivedEnds, Shelf, open_shelf
from agentbus.message.topics import parse_address

__all__ = ["MOST_ENTRIES", "History"]


class History:
    """Reads what became of messages; takes and writes nothing."""

    def __init__(self, broker: Broker, prefix: str, archive: ArchivedEnds | None) -> None:
        self._broker = broker
        self._prefix = prefix
        self._archive = archive

    async def page(
        self, address: str, filters: HistoryFilters, limit: int, cursor: str | None = None
    ) -> HistoryPage:
        """Return one page. Raises `NoSuchAddress`, and `InvalidValue` for a filter, limit or cursor."""
        # Nobody's clock but the server's: another one would find an empty page, and call it complete.
        now_ms = await server_ms(self._broker) if counts_from_now(filters) else None
        query = new_query(parse_address(address), filters, now_ms)
        shelf = open_shelf(self._broker, self._prefix, query.address)
        page = await read_page(shelf, self._archive, query, limit, cursor)
        if not page.entries and cursor is None:
            await self._check_known(query, shelf, page)
        return page

    async def pages(self, address: str, filters: HistoryFilters, size: int) -> AsyncIterator[HistoryPage]:
        """Yield all pages, one after the other."""
        page = await self.page(address, filters, size)
        yield page
        while page.next is not None:
            page = await self.page(address, filters, size, page.next)
            yield page

    async def _check_known(self, query: HistoryQuery, shelf: Shelf, page: HistoryPage) -> None:
        known = await known_addresses(self._broker, self._prefix)
        # Whoever took the address out of the list by hand has not taken its messages.
        if query.address in known or not page.complete or (await shelf.ends.tally()).newest != (0, 0):
            return
        if self._archive is not None:
            try:
                if await self._archive.edge(query.address, newest=True) is not None:
                    return
            except ArchiveError:
                return
        close = difflib.get_close_matches(query.address, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        served = "" if query.is_channel else ", and nobody has served it"
        raise NoSuchAddress(f"nothing was ever sent to {query.address}{served}{hint}")
