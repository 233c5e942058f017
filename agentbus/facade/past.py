"""The past as a bus reads it: loaded and put together when somebody first looks back."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from agentbus.broker.connection import Broker

if TYPE_CHECKING:
    from agentbus.history.archived import LazyArchive
    from agentbus.history.history import History


class Past:
    """The history, and the archive behind it when there is one."""

    def __init__(self, broker: Broker, prefix: str, dsn: str | None) -> None:
        self._broker = broker
        self._prefix = prefix
        self._dsn = dsn
        self._opened: LazyArchive | None = None

    @cached_property
    def history(self) -> History:
        """What became of messages."""
        from agentbus.history.history import History

        return History(self._broker, self._prefix, self.archive)

    @property
    def archive(self) -> LazyArchive | None:
        """What has left Redis; None without an archive."""
        from agentbus.history.archived import LazyArchive

        if self._opened is None and self._dsn:
            self._opened = LazyArchive(self._dsn, self._prefix)
        return self._opened

    async def close(self) -> None:
        """Disconnect the archive."""
        if self._opened is not None:
            await self._opened.close()
