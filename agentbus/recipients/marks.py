"""What a recipient writes into the receipts: delivered, read, processed; in batches, in nobody's way.

A mark is written after what it tells of, so that no receipt says more than is true. One that is lost with its
process is made good by whoever reads the receipts; see `reconciling`.
"""

from __future__ import annotations

import asyncio
import contextlib

from agentbus.broker.receipts import ReceiptStore, field_of
from agentbus.errors import BrokerError, BrokerOutOfMemory, BrokerUnavailable, MalformedMessage
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.codec import decode
from agentbus.receive.delivery import Delivery
from agentbus.receive.outcome import PASSED_ON, Kind, Outcome

#: Seconds in which marks gather before they leave together.
_GATHER = 0.01
_INBOX = "agent."


class Marks:
    """Gathers the marks of one served agent, and writes them; a `Companion`."""

    def __init__(self, store: ReceiptStore, events: Events) -> None:
        self._store = store
        self._events = events
        #: Message id to field to None, which stands for now.
        self._open: dict[str, dict[str, str | int | None]] = {}
        self._wake = asyncio.Event()

    def of(self, delivery: Delivery) -> Mark | None:
        """Return the means to mark a delivery; None when its sender named nobody, or not this inbox."""
        address = delivery.address
        if not address.startswith(_INBOX):
            return None
        try:
            message = decode(delivery.entry.message)
        except MalformedMessage:
            return None
        agent = address.removeprefix(_INBOX)
        if agent not in message.recipients:
            return None
        mark = Mark(self, message.message_id, agent)
        mark.note("delivered")
        return mark

    def note(self, message_id: str, field: str, value: str | None) -> None:
        """Take one mark; written soon."""
        self._open.setdefault(message_id, {}).setdefault(field, value)
        self._wake.set()

    async def begin(self) -> None:
        """Nothing to do: the first mark comes with the first delivery."""

    async def run(self) -> None:
        """Write marks until cancelled."""
        backoff = Backoff()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER)
            self._wake.clear()
            try:
                await self.flush()
                backoff.reset()
            except (BrokerUnavailable, BrokerOutOfMemory):
                self._wake.set()
                await asyncio.sleep(backoff.next_pause())

    async def end(self) -> None:
        """Write what is left."""
        with contextlib.suppress(BrokerError):
            await self.flush()

    async def flush(self) -> None:
        """Write all marks taken so far; raises when the broker is away, and then they stay."""
        taken, self._open = self._open, {}
        if not taken:
            return
        try:
            await self._store.mark(taken)
        except (BrokerUnavailable, BrokerOutOfMemory, asyncio.CancelledError):
            # Perhaps some were written; the first time of each wins, so all may be written again.
            for message_id, fields in self._open.items():
                taken.setdefault(message_id, {}).update(fields)
            self._open = taken
            raise
        except BrokerError as error:
            # Whoever reads the receipts finds out; the deliveries themselves are not held up.
            self._events.emit("receipts_refused", "", str(error))


class Mark:
    """Marks one delivery."""

    __slots__ = ("_agent", "_marks", "_message_id")

    def __init__(self, marks: Marks, message_id: str, agent: str) -> None:
        self._marks = marks
        self._message_id = message_id
        self._agent = agent

    def note(self, what: str, value: str | None = None) -> None:
        """Mark it as ``delivered``, ``read``, …; the value None stands for now."""
        self._marks.note(self._message_id, field_of(self._agent, what), value)

    def read(self) -> None:
        """A handler begins, or somebody says that it was read."""
        self.note("read")

    def ended(self, outcome: Outcome) -> None:
        """The broker has confirmed an outcome."""
        if outcome.kind is Kind.PROCESSED:
            self.note("processed")
            if outcome.acknowledged:
                self.note("acknowledged")
        elif outcome.kind not in PASSED_ON:
            details = (outcome.kind.value, outcome.reason, outcome.detail)
            self.note("ended", ": ".join(dict.fromkeys(detail for detail in details if detail)))

    async def written(self) -> None:
        """Write now what was marked; raises what the broker says."""
        await self._marks.flush()
