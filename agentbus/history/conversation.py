"""One conversation as a sequence: every message of it that is left, causes before what they led to."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.found import Found, Place
from agentbus.broker.inspection.tracing import Progress, search_address
from agentbus.broker.inspection.wanted import Conversation
from agentbus.errors import ArchiveError
from agentbus.message.message import Message

#: Messages of one conversation that are shown.
MOST_TURNS = 10_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    message: Message
    #: How many causes in a row led to it that are part of the conversation.
    depth: int
    #: Where it is or how it ended: one for each address it went to.
    places: tuple[Place, ...]

    @property
    def sent_ms(self) -> int:
        """When it was sent by its sender's clock, in ms; else when it came to its address."""
        if self.message.timestamp is not None:
            return round(self.message.timestamp.timestamp() * 1000)
        return min((place.at_ms for place in self.places if place.at_ms is not None), default=0)


@dataclass(frozen=True, slots=True)
class ConversationTrace:
    """All that is left of one conversation."""

    correlation_id: str
    #: In causal order: no message before its cause, and by time otherwise.
    turns: tuple[Turn, ...]
    #: How many addresses were searched in Redis.
    searched: int
    #: ``searched``, ``none`` (there is none) or ``unavailable``.
    archive: str
    #: Messages that caused some of these and were not found: trimmed, or sent elsewhere.
    missing: tuple[str, ...] = ()
    #: Whether there were more messages than are shown.
    more: bool = False
    #: Whether direct messages between other agents were left out.
    private: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing; what was trimmed without a trace nobody knows."""
        left_out = self.missing or self.more or self.private
        return not left_out and self.archive != "unavailable"


class ArchivedConversations(Protocol):
    """An archive, as this needs it."""

    async def conversation(self, correlation_id: str, most: int) -> Sequence[tuple[Message, Place]]:
        """Return its messages of a conversation with how they ended."""


async def trace_conversation(
    broker: Broker,
    prefix: str,
    correlation_id: str,
    addresses: Sequence[str],
    archive: ArchivedConversations | None,
    progress: Progress | None = None,
) -> ConversationTrace:
    """Search some addresses, in pages, and the archive for all messages of a conversation."""
    wanted = Conversation(correlation_id, MOST_TURNS)
    found: dict[str, Found] = {}
    for index, address in enumerate(addresses):
        if progress is not None:
            progress(index, len(addresses), address)
        for message_id, here in (await search_address(broker, prefix, address, wanted)).items():
            _add(found, message_id, here.message, here.places)
    state = "none"
    if archive is not None:
        state = "searched"
        try:
            for message, place in await archive.conversation(correlation_id, MOST_TURNS):
                _add(found, message.message_id, message, (place,))
        except ArchiveError:
            state = "unavailable"
    turns = [Turn(each.message, 0, tuple(each.places)) for each in found.values() if each.message is not None]
    ids = {turn.message.message_id for turn in turns}
    causes = {turn.message.causation_id for turn in turns if turn.message.causation_id is not None}
    return ConversationTrace(
        correlation_id,
        in_causal_order(turns),
        len(addresses),
        state,
        tuple(sorted(causes - ids)),
        wanted.more or len(turns) >= MOST_TURNS,
    )


def _add(found: dict[str, Found], message_id: str, message: Message | None, places: Iterable[Place]) -> None:
    one = found.setdefault(message_id, Found())
    one.message = one.message or message
    # What was archived a moment ago may still be in Redis.
    known = {(place.address, place.stream, place.entry_id) for place in one.places}
    one.places += [place for place in places if (place.address, place.stream, place.entry_id) not in known]


def in_causal_order(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return turns so that none comes before its cause, the earliest of those that may come first."""
    waiting: dict[str, list[Turn]] = {}
    left = {turn.message.message_id: turn for turn in turns}
    ready: list[tuple[int, str, int]] = []
    for turn in turns:
        cause = turn.message.causation_id
        if cause is not None and cause in left and cause != turn.message.message_id:
            waiting.setdefault(cause, []).append(turn)
        else:
            heapq.heappush(ready, (turn.sent_ms, turn.message.message_id, 0))
    ordered: list[Turn] = []
    while left:
        if not ready:
            ready.append(_earliest(left))
        _, message_id, depth = heapq.heappop(ready)
        if message_id not in left:
            continue
        ordered.append(replace(left.pop(message_id), depth=depth))
        for effect in waiting.pop(message_id, ()):
            heapq.heappush(ready, (effect.sent_ms, effect.message.message_id, depth + 1))
    return tuple(ordered)


def _earliest(left: Mapping[str, Turn]) -> tuple[int, str, int]:
    """Begin somewhere in a circle of causes, which only somebody's hand can have made."""
    first = min(left.values(), key=lambda turn: (turn.sent_ms, turn.message.message_id))
    return first.sent_ms, first.message.message_id, 0
