"""Mending: dead letters, cancelling, replaying, deleting a project."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Mapping,
)
from contextlib import asynccontextmanager
from typing import Any, Unpack

from agentbus.broker.carry import Carrier
from agentbus.broker.keys import archive as archive_key
from agentbus.broker.schedules import ScheduleStore
from agentbus.broker.wake import Announcer
from agentbus.cancellation import Cancellation, Cancelled
from agentbus.conversations.access import check_may_read
from agentbus.conversations.reading import OwnHistory
from agentbus.dead_letters import DeadLetters
from agentbus.errors import ConfigurationError, InvalidValue
from agentbus.facade.calls import Calls
from agentbus.message.current import handling
from agentbus.message.durations import milliseconds
from agentbus.message.message import Message
from agentbus.message.topics import parse_address
from agentbus.projects import ProjectDeleted, ProjectDeletion, RowEraser
from agentbus.projects.deletion import AUDIT_TOPIC
from agentbus.replay import Replay, Replayed, ReplayFilters, ReplayProgress
from agentbus.replay.plan import new_plan
from agentbus.send.envelope import compose
from agentbus.send.requests import Answering
from agentbus.settings import (
    archive_dsn,
)


class MendingCalls(Calls):
    """What people do about messages."""

    async def cancel(self, message_id: str, address: str | None = None) -> Cancelled:
        """Cancel a message that waits or is due: nobody gets it any more, and it ends as ``cancelled``.

        Without an address every inbox in use is searched. One that waits behind others ends when its turn
        comes; who asked with it is told at once. Raises `CancelRefused` when somebody handles it (with who),
        or when it is dead or has ended, and `NoSuchMessage`.
        """
        rooms = self.rooms
        limit = self.settings.publisher.message_bytes
        answers = Answering(rooms.broker, self.settings.prefix, self.events, self._sender, limit)

        async def tell(request: Message) -> None:
            await answers.send(request, None, {"reason": "cancelled", "detail": "the request was cancelled"})

        by = self._sender.agent or "anonymous"
        return await Cancellation(rooms.broker, self.settings.prefix, by, tell).cancel(message_id, address)

    @property
    def dead_letters(self) -> DeadLetters:
        """Messages that failed for good: list, retry, edit, resolve and drop them."""
        limit = self.settings.publisher.message_bytes

        def composed(topic: str, body: Any) -> bytes:
            with handling(None):
                return compose(self._sender, topic, body, {}, limit).text

        return DeadLetters(
            self.rooms.broker,
            self.settings.prefix,
            self._sender.agent or "anonymous",
            composed,
            limit,
        )

    async def delete_project(
        self, project: str, *, reason: str, dry_run: bool = False, keep_archive: bool = False
    ) -> ProjectDeleted:
        """Delete a project: its channel ``project.<id>`` and every message that belongs to it, everywhere.

        What waits or is due is cancelled first; what somebody handles is left and counted, and goes when the
        project is deleted again. An entry on ``system.audit`` says who, why and how much, before and after.
        ``dry_run`` only counts. Raises `InvalidValue`, and `ConfigurationError` where this deployment
        archives and the archive is not known here, unless ``keep_archive``.
        """
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidValue("reason", "say why the project is deleted; it is kept with the audit entry")
        rooms, prefix = self.rooms, self.settings.prefix
        store = ScheduleStore(rooms.broker, prefix, self.settings.publisher.address_limit)
        by = self._sender.agent or "anonymous"
        deletion = ProjectDeletion(rooms.broker, prefix, store, project, by, dry_run=dry_run)

        async def note(body: Mapping[str, Any]) -> None:
            await rooms.publisher.publish_as(self._sender, AUDIT_TOPIC, dict(body), {})

        async with self._rows(keep_archive) as rows:
            return await deletion.run(reason, rows, note)

    @asynccontextmanager
    async def _rows(self, keep: bool) -> AsyncIterator[RowEraser | None]:
        """Open the archive for deleting; None without one, or when it is to be kept."""
        dsn = self.settings.archive or archive_dsn()
        if keep or dsn is None:
            is_on = await self.rooms.broker.execute("HGET", archive_key(self.settings.prefix), "on") == b"1"
            if is_on and not keep:
                raise ConfigurationError(
                    "this deployment archives, and the archive would keep the messages: "
                    "set AGENTBUS_ARCHIVE, or say that it is to be kept"
                )
            yield None
            return
        from agentbus.archive.connection import Database
        from agentbus.archive.eraser import ArchiveEraser

        database = Database(dsn)
        try:
            yield ArchiveEraser(database, self.settings.prefix)
        finally:
            await database.close()

    async def replay(
        self,
        address: str,
        *,
        to: str,
        replay_id: str | None = None,
        limit: int | None = None,
        rate: float | None = None,
        allow_unknown: bool = False,
        progress: Callable[[ReplayProgress], None] | None = None,
        **filters: Unpack[ReplayFilters],
    ) -> Replayed:
        """Hand what is in the history of an address to an agent, oldest first; see `ReplayFilters`.

        Each message arrives as it was, with `Message.replayed`. Under the same ``replay_id`` an interrupted
        replay goes on where it was, and doubles nothing within the window of idempotency keys. ``rate`` is
        messages a second; without one it waits while the inbox holds 1,000 unsettled messages. Raises
        `NoSuchAddress`, `NoSuchAgent` unless ``allow_unknown``, `NotYourConversation`, and `InvalidValue`.
        """
        rooms, prefix = self.rooms, self.settings.prefix
        check_may_read(self._sender.agent, parse_address(address))
        plan = new_plan(address, to, replay_id, limit, filters)
        window = milliseconds(self.settings.publisher.key_window, "key_window")
        carrier = Carrier(rooms.broker, prefix, window, Announcer(rooms.broker, prefix, self.events))
        most = self.settings.publisher.address_limit
        # Who gets it reads it: direct messages go to none but the two.
        history = OwnHistory(rooms.history, plan.to.partition(".")[2])
        replay = Replay(rooms.broker, prefix, history, carrier, window, most)
        return await replay.run(plan, rate=rate, allow_unknown=allow_unknown, tell=progress)
