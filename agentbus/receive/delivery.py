"""One message in the hands of this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from agentbus.broker.answers import RawEntry
from agentbus.broker.subscription import Gap
from agentbus.errors import AlreadySettled
from agentbus.message.codec import validate_content
from agentbus.message.durations import Duration, milliseconds
from agentbus.message.message import Message
from agentbus.message.reply_address import PartMark
from agentbus.message.topics import is_channel
from agentbus.receive.outcome import ACKNOWLEDGED, PROCESSED, RELEASED, Kind, Outcome, storable
from agentbus.receive.place import Place

if TYPE_CHECKING:
    from agentbus.receive.parts import Parts
    from agentbus.receive.settler import Settler

Content = TypeVar("Content")

_NO_STATE: dict[str, Any] = {}
#: Fields of a state that are counted with, here and in ``include/entry.lua``.
_COUNTS = frozenset(("attempt", "crashes", "bounces", "expires"))
_MOST_COUNT = 2**53


class ReceiptMark(Protocol):
    """Writes into the receipts of a message to named agents."""

    def read(self) -> None:
        """A handler begins, or somebody says that it was read."""

    def ended(self, outcome: Outcome) -> None:
        """The broker has confirmed an outcome."""

    async def written(self) -> None:
        """Wait until what was marked is written."""


class Source:
    """One stream of one place as one consumer holds it."""

    __slots__ = ("at_most_once", "finished", "held", "inbox", "index", "is_channel")

    def __init__(self, inbox: Place, index: int) -> None:
        self.inbox = inbox
        self.index = index
        self.is_channel = is_channel(inbox.address)
        #: Everything handed to this consumer whose settlement the broker has not confirmed.
        self.held: dict[bytes, Delivery] = {}
        #: Processed, to be settled with the next batch.
        self.finished: list[bytes] = []
        #: Whether the address's policy wants some messages settled before they are handled.
        self.at_most_once = False


class Delivery:
    """One attempt at one message.

    Handlers that want to settle by themselves take it by annotation; `Bus.inbox` hands it out. Settling
    twice raises `AlreadySettled`; settling after the lease was lost raises `StaleDelivery`.
    """

    __slots__ = (
        "_settler",
        "answered",
        "arrived",
        "entry",
        "message",
        "on_settled",
        "outcome",
        "parts",
        "receipt",
        "revoked",
        "source",
        "state",
        "suspect",
    )

    #: Filled by `Execution.open` before anybody sees the delivery.
    message: Message

    def __init__(self, source: Source, entry: RawEntry, arrived: float, settler: Settler) -> None:
        self.source = source
        self.entry = entry
        #: Loop time at which it reached this process.
        self.arrived = arrived
        self._settler = settler
        self.state = decode_state(entry.state) if entry.state else _NO_STATE
        #: Whether an owner died while it held this message.
        self.suspect = bool(self.state) and bool(self.state.get("crashes"))
        self.outcome: Outcome | None = None
        #: Set when the asker has its answer: what comes later is not sent again.
        self.answered = False
        #: The parts of its answer that were sent; None while the asker wants none.
        self.parts: Parts | None = None
        #: Set when the lease was lost: nothing this process still does with the message counts.
        self.revoked = False
        #: Called once when a pulled delivery is settled.
        self.on_settled: Callable[[], None] | None = None
        #: What tells the sender of a message to named agents how it is with it; None for any other.
        self.receipt: ReceiptMark | None = None

    @property
    def address(self) -> str:
        """The address whose inbox it came from."""
        return self.source.inbox.address

    @property
    def entry_id(self) -> str:
        """The entry in its stream."""
        return self.entry.entry_id.decode()

    @property
    def entered_ms(self) -> int:
        """When it was added to its stream, in ms by the server's clock."""
        return int(self.entry.entry_id.partition(b"-")[0])

    @property
    def attempt(self) -> int:
        """1 for the first attempt; one more for each failure of a handler."""
        return int(self.state.get("attempt", 0)) + 1

    @property
    def gap(self) -> Gap | None:
        """On a channel: what retention removed before this message, unread; None when nothing is missing."""
        found = self.state.get("gap")
        return Gap(found.get("missed"), str(found.get("after"))) if isinstance(found, dict) else None

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have run this message before."""
        return any(self.state.get(count) for count in ("attempt", "crashes", "deferrals"))

    @property
    def settled(self) -> bool:
        """Whether this process has decided how the delivery ends."""
        return self.outcome is not None

    def body(self, model: type[Content]) -> Content:
        """Return the body's content as ``model``; raises `MalformedMessage` naming the field."""
        content: Content = validate_content(self.message.content, model)
        return content

    async def ack(self, reply: Any = None) -> None:
        """End it as processed; ``reply`` goes to whoever asked."""
        await self._settle(PROCESSED if reply is None else Outcome(Kind.PROCESSED, reply=reply))

    async def acknowledge(self) -> None:
        """End it as processed: read, and no reply is needed.

        Receipts show it; whoever asked is answered without a content, which is no failure.
        """
        await self._settle(ACKNOWLEDGED)

    async def mark_read(self) -> None:
        """Tell the sender that it was read, without settling it; a handler that begins does so by itself.

        Nothing happens where the sender named no recipients: there are no receipts then.
        """
        if self.receipt is not None:
            self.receipt.read()
            await self.receipt.written()

    async def retry(self, delay: Duration | None = None) -> None:
        """Count a failure: try again after the policy's delay (or ``delay``), or end it when exhausted."""
        failure = self._settler.failed(self, RuntimeError("retry was asked for"))
        if delay is not None and failure.kind is Kind.RETRIED:
            failure = Outcome(Kind.RETRIED, milliseconds(delay, "delay"), failure.reason, failure.detail)
        await self._settle(failure)

    async def reject(self, reason: str = "rejected by the receiver") -> None:
        """Make it a dead letter at once."""
        await self._settle(Outcome(Kind.DEAD, reason="rejected", detail=storable(reason)))

    async def defer(self, delay: Duration) -> None:
        """Hand it out again after ``delay``, spending no attempt."""
        await self._settle(Outcome(Kind.DEFERRED, milliseconds(delay, "delay"), "deferred"))

    async def release(self) -> None:
        """Hand it back at once, nothing spent."""
        await self._settle(RELEASED)

    async def settle_first(self) -> None:
        """End it as processed before it is handled: at most once instead of at least once."""
        await self._settler.settle_now(self, PROCESSED, answer=False)

    async def _settle(self, outcome: Outcome) -> None:
        if self.outcome is not None:
            raise AlreadySettled(f"message {self.message.message_id} was {self.outcome.kind} before")
        if self.on_settled is not None:
            self.on_settled()
        await self._settler.settle_now(self, outcome)

    async def __aenter__(self) -> Delivery:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.outcome is not None:
            return
        if error is None:
            await self.ack()
        elif isinstance(error, Exception):
            await self._settle(self._settler.failed(self, error))
        else:
            # Cancelled or interrupted: the work was not done, and nobody is to blame.
            await asyncio.shield(self.release())

    def __repr__(self) -> str:
        return f"<Delivery {self.address} {self.entry_id} attempt {self.attempt}>"


def decode_state(text: bytes) -> dict[str, Any]:
    """Return an entry's state; what somebody wrote by hand and makes no sense reads as absent."""
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        return _NO_STATE
    if not isinstance(state, dict):
        return _NO_STATE
    for field in _COUNTS & state.keys():
        value = state[field]
        if not isinstance(value, (int, float)) or not 0 <= value < _MOST_COUNT:
            del state[field]
    return state


class Answer(Protocol):
    """Sends answers to whoever asked."""

    async def __call__(
        self, request: Message, content: Any, failure: Outcome | None, mark: PartMark | None = None
    ) -> None:
        """Send an answer, or the failure in its place; ``mark`` counts the parts before it."""
