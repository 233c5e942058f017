"""Deletes a project: its channel, and every message that belongs to it, wherever it is.

Address by address, in steps that the server does not feel. Each step is safe to repeat, so that a deletion
that was interrupted is finished by deleting again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from agentbus.broker.cancelling import Cancelling, Spot
from agentbus.broker.connection import Broker
from agentbus.broker.dead_letters import LetterBox
from agentbus.broker.erasing import ChannelEraser, InboxEraser
from agentbus.broker.inspection.counts import scan_addresses
from agentbus.broker.owed import DebtStore, Record
from agentbus.broker.schedules import ScheduleStore
from agentbus.errors import BrokerRefused
from agentbus.message.owed import text_of
from agentbus.message.topics import is_channel
from agentbus.projects.belonging import Belonging
from agentbus.projects.deleted import ProjectDeleted, ProjectRemoval, sums

#: Where what was deleted is noted, before and after.
AUDIT_TOPIC = "system.audit.project_deleted"
#: Messages that are gathered before they are removed together.
_CHUNK = 100
Found = TypeVar("Found")
#: Publishes the body of an audit entry.
Note = Callable[[Mapping[str, Any]], Awaitable[None]]


class RowEraser(Protocol):
    """The archive, as far as a deletion needs it."""

    async def count(self, project: str) -> int:
        """Count the rows of a project."""

    async def erase(self, project: str) -> int:
        """Delete them; returns how many there were."""


class ProjectDeletion:
    """Deletes one project."""

    def __init__(
        self, broker: Broker, prefix: str, schedules: ScheduleStore, project: str, by: str, *, dry_run: bool
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._schedules = schedules
        self._belonging = Belonging(project)
        self._by = by
        self._dry_run = dry_run

    async def run(self, reason: str, archive: RowEraser | None, note: Note) -> ProjectDeleted:
        """Delete. ``note`` writes the audit entries: nothing is removed before the first is stored."""
        project = self._belonging.project
        head = {"project": project, "by": self._by, "reason": reason}
        if not self._dry_run:
            await note({**head, "phase": "intent"})
        places, refused, searched = list[ProjectRemoval](), dict[str, str](), 0
        # First: else somebody makes a copy of what is removed, where nothing is looked for any more.
        owed = await self._strike(refused)
        async for address in self._addresses():
            searched += 1
            try:
                place = await (self._channel(address) if is_channel(address) else self._inbox(address))
            except BrokerRefused as error:
                # One address that is broken by hand keeps the project's messages nowhere else.
                refused[address] = str(error)
                continue
            place = replace(place, owed=owed.get(address, 0))
            if place.touched:
                places.append(place)
        rows = None
        if archive is not None:
            rows = await (archive.count(project) if self._dry_run else archive.erase(project))
        done = ProjectDeleted(
            project, self._dry_run, self._by, reason, tuple(places), searched, rows, refused
        )
        if not self._dry_run:
            await note({
                **head, "phase": "result", "counts": sums(places), "archive": rows,
                "addresses": [place.address for place in places], "complete": done.complete,
                "refused": refused,
            })  # fmt: skip
        return done

    async def _addresses(self) -> AsyncIterator[str]:
        """Yield every address in use, and the project's own channel last: it may not be listed any more."""
        async for names in scan_addresses(self._broker, self._prefix):
            for name in names:
                if name != self._belonging.address:
                    yield name
        yield self._belonging.address

    # --- copies that are owed ---

    async def _strike(self, refused: dict[str, str]) -> dict[str, int]:
        """Strike off the copies of the project's messages that are owed; returns of how many, by address."""
        debts, struck = DebtStore(self._broker, self._prefix), dict[str, int]()
        for address in await debts.addresses():
            try:
                async for records in _chunks(self._owed(debts, address)):
                    struck[address] = struck.get(address, 0) + len(records)
                    if not self._dry_run:
                        await debts.strike(address, [(record.message_id, ()) for record in records])
            except BrokerRefused as error:
                refused[address] = str(error)
        return struck

    async def _owed(self, debts: DebtStore, address: str) -> AsyncIterator[Record]:
        async for record in debts.records(address):
            if self._belonging.holds(text_of(record.text)):
                yield record

    # --- channels ---

    async def _channel(self, address: str) -> ProjectRemoval:
        schedules = await self._cancel_schedules(address)
        channel = ChannelEraser(self._broker, self._prefix, address)
        if address == self._belonging.address:
            logged = await channel.length()
            if not self._dry_run:
                await channel.remove()
            return ProjectRemoval(address, logged=logged, schedules=schedules)
        logged = 0
        async for entries in _chunks(self._mine(channel.entries())):
            logged += len(entries) if self._dry_run else await channel.erase(entries)
        return ProjectRemoval(address, logged=logged, schedules=schedules)

    # --- inboxes ---

    async def _inbox(self, address: str) -> ProjectRemoval:
        """Cancel and drop first: what ended by that is erased with what had ended before."""
        place = ProjectRemoval(address, schedules=await self._cancel_schedules(address))
        place = await self._cancel(address, place)
        place = replace(place, dead=await self._drop(address))
        inbox, ended, left = InboxEraser(self._broker, self._prefix, address), 0, place
        async for entries in _chunks(self._mine(inbox.entries())):
            states = await inbox.erase(entries, only_look=self._dry_run)
            ended += states.count("ended")
            left = replace(
                left,
                left_in_flight=left.left_in_flight + states.count("held"),
                left_waiting=left.left_waiting + states.count("waiting"),
            )
        if self._dry_run:
            return replace(left, ended=ended, left_waiting=0)
        # What was cancelled and dropped just now is among the ended ones.
        now_ended = place.waiting - left.left_waiting + place.due + place.dead
        return replace(left, ended=max(0, ended - now_ended))

    async def _cancel(self, address: str, place: ProjectRemoval) -> ProjectRemoval:
        cancelling = Cancelling(self._broker, self._prefix, address)
        due = waiting = 0
        async for spots in _chunks(self._mine(cancelling.due())):
            due += await self._cancelled(cancelling, spots)
        async for spots in _chunks(self._mine(cancelling.waiting())):
            waiting += await self._cancelled(cancelling, spots)
        return replace(place, due=due, waiting=waiting)

    async def _cancelled(self, cancelling: Cancelling, spots: list[Spot]) -> int:
        if self._dry_run:
            return len(spots)
        answers = await cancelling.cancel(self._by, spots)
        return sum(answer in ("cancelled", "marked") for answer in answers)

    async def _drop(self, address: str) -> int:
        box, dropped = LetterBox(self._broker, self._prefix, address), 0
        async for letter in box.walk("dead", newest_first=False):
            mine = self._belonging.holds(letter.fields.get("message", b""))
            if mine and (self._dry_run or await box.drop(letter.entry_id, self._by)):
                dropped += 1
        return dropped

    # --- both ---

    async def _mine(self, entries: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for entry in entries:
            if self._belonging.holds(entry.text):
                yield entry

    async def _cancel_schedules(self, address: str) -> int:
        cancelled = 0
        async for schedule in self._schedules.all_at(address):
            mine = address == self._belonging.address or self._belonging.holds_schedule(schedule.definition)
            if mine and (self._dry_run or await self._schedules.cancel(address, schedule.id)):
                cancelled += 1
        return cancelled


async def _chunks(found: AsyncIterator[Found]) -> AsyncIterator[list[Found]]:
    chunk: list[Found] = []
    async for one in found:
        chunk.append(one)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
