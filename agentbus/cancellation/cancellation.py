"""Cancels messages that wait or are due; what somebody runs is not touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from agentbus.broker.cancelling import Cancelling, Spot
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.inbox_view import known_addresses
from agentbus.broker.inspection.tracing import Trace, trace_message
from agentbus.errors import BrokerRefused, CancelRefused, MalformedMessage, NoSuchMessage
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.topics import is_channel, parse_inbox

#: A message that moves between the search and the cancellation is searched again so often.
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class CancelledPlace:
    """Where a message was cancelled."""

    address: str
    #: The lane's priority, ``returned`` or ``due``.
    stream: str
    #: Its entry id; its name in ``due``.
    entry_id: str
    #: True: it has ended. False: it is marked, nobody gets it, and it ends when its turn comes.
    ended: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of a cancellation."""

    message_id: str
    places: tuple[CancelledPlace, ...]

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


class Cancellation:
    """Cancels by message id."""

    def __init__(
        self, broker: Broker, prefix: str, by: str, tell: Callable[[Message], Awaitable[None]]
    ) -> None:
        """``tell`` tells the sender of a request that there will be no answer."""
        self._broker = broker
        self._prefix = prefix
        self._by = by
        self._tell = tell

    async def cancel(self, message_id: str, address: str | None) -> Cancelled:
        """Cancel every copy of a message that nobody has begun, at one inbox or at all.

        Raises `NoSuchMessage`, and `CancelRefused` when it is held, dead or ended everywhere.
        """
        if address is not None:
            searched = [parse_inbox(address)]
        else:
            known = await known_addresses(self._broker, self._prefix)
            searched = [one for one in known if not is_channel(one)]
        places: list[CancelledPlace] = []
        problem: BrokerRefused | None = None
        for one in searched:
            try:
                places += await self._cancel_at(one, message_id)
            except BrokerRefused as error:
                # A key of another type at one address keeps nobody from being searched.
                problem = problem or error
        if not places and problem is not None:
            raise problem
        if not places:
            raise await self._why_not(message_id, address, searched)
        return Cancelled(message_id, tuple(places))

    async def _cancel_at(self, address: str, message_id: str) -> list[CancelledPlace]:
        cancelling = Cancelling(self._broker, self._prefix, address)
        places: list[CancelledPlace] = []
        for _ in range(_LOOKS):
            spots = await self._spots(cancelling, message_id)
            answers = await cancelling.cancel(self._by, spots)
            for spot, answer in zip(spots, answers, strict=True):
                if answer.startswith("refused "):
                    raise BrokerRefused(f"{address} does not take it: {answer.partition(' ')[2]}")
                if answer in ("cancelled", "marked"):
                    places.append(CancelledPlace(address, spot.stream, spot.entry_id, answer == "cancelled"))
                    await self._tell_asker(spot)
            # Gone in between: promoted, handed back, or begun; where it is now the next look finds out.
            if "gone" not in answers:
                break
        return places

    async def _spots(self, cancelling: Cancelling, message_id: str) -> list[Spot]:
        spots = await cancelling.due_named(message_id)
        wanted = message_id.encode()
        spots += [spot async for spot in cancelling.waiting() if wanted in spot.text]
        return [spot for spot in spots if _id_of(spot) == message_id]

    async def _tell_asker(self, spot: Spot) -> None:
        message = decode(spot.text)
        if message.reply_to is not None:
            await self._tell(message)

    async def _why_not(
        self, message_id: str, address: str | None, searched: list[str]
    ) -> NoSuchMessage | CancelRefused:
        where = [parse_inbox(address)] if address else await known_addresses(self._broker, self._prefix)
        trace = await trace_message(self._broker, self._prefix, message_id, where)
        return _refusal(trace, searched)


def _refusal(trace: Trace, searched: list[str]) -> NoSuchMessage | CancelRefused:
    for place in trace.places:
        state = place.outcome if place.status == "ended" else place.status
        held = f", held by {place.consumer}" if place.status == "in_flight" else ""
        return CancelRefused(
            f"{trace.message_id} cannot be cancelled: at {place.address} it is "
            f"{_WORDS.get(state, state)}{held}",
            state=state, consumer=place.consumer if held else None,
        )  # fmt: skip
    at = searched[0] if len(searched) == 1 else f"any of {len(searched)} inboxes"
    return NoSuchMessage(f"{trace.message_id} is not known at {at}, or is no longer kept")


_WORDS = {
    "in_flight": "being handled", "dead": "a dead letter (`agentbus dlq drop` ends it)",
    "logged": "in the log of a channel, where nothing waits",
}  # fmt: skip


def _id_of(spot: Spot) -> str | None:
    try:
        return decode(spot.text).message_id
    except MalformedMessage:
        return None
