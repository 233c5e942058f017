"""What a recipient writes into the receipts: delivered, read, processed; in batches, in nobody's way.

A mark is written after what it tells of, so that no receipt says more than is true. One that is lost with its
process is made good by whoever reads the receipts; see `reconciling`.
"""

from __future__ import annotations

import asyncio
import contextlib

from agentbus.broker.conversations import ConversationStore
from agentbus.broker.inspection.look import EntryId, format_id, parse_id
from agentbus.broker.receipts import ReceiptStore, field_of
from agentbus.errors import BrokerError, BrokerOutOfMemory, BrokerUnavailable, MalformedMessage
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.topics import is_conversation, parse_conversation
from agentbus.receive.delivery import Delivery
from agentbus.receive.outcome import PASSED_ON, Kind, Outcome

#: Seconds in which marks gather before they leave together.
_GATHER = 0.01
_INBOX = "agent."


class Marks:
    """Gathers the marks of one served agent, and writes them; a `Companion`."""

    def __init__(self, store: ReceiptStore, conversations: ConversationStore, events: Events) -> None:
        self._store = store
        self._conversations = conversations
        self._events = events
        #: Message id to field to None, which stands for now.
        self._open: dict[str, dict[str, str | int | None]] = {}
        #: Conversation and agent to the entry up to which it has read.
        self._read: dict[tuple[str, str], EntryId] = {}
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()

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
        # What was carried here from a channel, or copied from another inbox, is not the copy for this agent.
        if agent not in message.recipients or message.to_agent != agent:
            return None
        mark = Mark(self, message.message_id, agent, _place_of(message))
        mark.note("delivered")
        return mark

    def note(self, message_id: str, field: str, value: str | None) -> None:
        """Take one mark; written soon."""
        self._open.setdefault(message_id, {}).setdefault(field, value)
        self._wake.set()

    def note_read(self, conversation: str, agent: str, entry_id: EntryId) -> None:
        """Take that an agent has read a conversation up to an entry; written soon."""
        key = (conversation, agent)
        self._read[key] = max(entry_id, self._read.get(key, entry_id))
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
        # One at a time: whoever waits here wants what another one has just taken to be written, too.
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        marks, self._open = self._open, {}
        read, self._read = self._read, {}
        try:
            if marks:
                await self._store.mark(marks)
            for (conversation, agent), entry_id in read.items():
                await self._conversations.read(conversation, agent, format_id(entry_id))
        except (BrokerUnavailable, BrokerOutOfMemory, asyncio.CancelledError):
            self._take_back(marks, read)
            raise
        except BrokerError as error:
            # Whoever reads the receipts finds out; the deliveries themselves are not held up.
            self._events.emit("receipts_refused", "", str(error))

    def _take_back(
        self, marks: dict[str, dict[str, str | int | None]], read: dict[tuple[str, str], EntryId]
    ) -> None:
        """Keep what was perhaps not written; the first time of each wins, so all may be written again."""
        for message_id, fields in self._open.items():
            marks.setdefault(message_id, {}).update(fields)
        self._open = marks
        for (conversation, agent), entry_id in read.items():
            self.note_read(conversation, agent, entry_id)


def _place_of(message: Message) -> tuple[str, EntryId] | None:
    """Return the conversation of a direct message and its entry there; None for any other message."""
    entry = message.envelope.get("log_entry")
    channel = message.channel
    if channel is None or not is_conversation(channel) or not isinstance(entry, str):
        return None
    try:
        return parse_conversation(channel), parse_id(entry)
    except ValueError:
        # Somebody else's envelope.
        return None


class Mark:
    """Marks one delivery."""

    __slots__ = ("_agent", "_marks", "_message_id", "_place")

    def __init__(
        self, marks: Marks, message_id: str, agent: str, place: tuple[str, EntryId] | None = None
    ) -> None:
        self._marks = marks
        self._message_id = message_id
        self._agent = agent
        #: Where it stands in a conversation, if it does.
        self._place = place

    def note(self, what: str, value: str | None = None) -> None:
        """Mark it as ``delivered``, ``read``, …; the value None stands for now."""
        self._marks.note(self._message_id, field_of(self._agent, what), value)

    def read(self) -> None:
        """A handler begins, or somebody says that it was read."""
        self.note("read")
        self._move_cursor()

    def _move_cursor(self) -> None:
        if self._place is not None:
            conversation, entry_id = self._place
            self._marks.note_read(conversation, self._agent, entry_id)

    def ended(self, outcome: Outcome) -> None:
        """The broker has confirmed an outcome."""
        if outcome.kind is Kind.PROCESSED:
            self.note("processed")
            self._move_cursor()
            if outcome.acknowledged:
                self.note("acknowledged")
        elif outcome.kind not in PASSED_ON:
            details = (outcome.kind.value, outcome.reason, outcome.detail)
            self.note("ended", ": ".join(dict.fromkeys(detail for detail in details if detail)))

    async def written(self) -> None:
        """Write now what was marked; raises what the broker says."""
        await self._marks.flush()
