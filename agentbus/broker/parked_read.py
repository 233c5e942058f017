"""The parked read: how an idle consumer waits."""

from __future__ import annotations

from collections.abc import Sequence

from agentbus.broker.answers import RawEntry, raw_entry
from agentbus.broker.connection import Argument, Link
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import GROUP, SOURCES


async def park(
    link: Link, inboxes: Sequence[Inbox], consumer: str, block_ms: int
) -> list[tuple[int, RawEntry]]:
    """Wait on the streams of several inboxes for one entry each; returns (index of inbox, entry).

    One hop from publisher to reader, and the server serves parked consumers in turn. Ends with an empty
    list after ``block_ms`` or when `CLIENT UNBLOCK` is sent. Never cancel it: an entry on its way would be
    stranded with this consumer.
    """
    streams = [stream for inbox in inboxes for stream in inbox.keys.sources]
    read: tuple[Argument, ...] = (
        "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", 1, "BLOCK", block_ms,
        "STREAMS", *streams, *([">"] * len(streams)),
    )  # fmt: skip
    # Asked together with the read, which is answered first: a mark that comes later is refused, because the
    # message is in somebody's hands by then. A link that went dead must end by itself: the server answers
    # within block_ms or not at all.
    marks = ("EXISTS", *(inbox.keys.cancelled for inbox in inboxes))
    reply, marked = await link.pipeline([read, marks], timeout=block_ms / 1000 + 2.0)
    for answer in (reply, marked):
        if isinstance(answer, Exception):
            raise answer
    places = {stream.encode(): divmod(index, len(SOURCES)) for index, stream in enumerate(streams)}
    taken = []
    for stream, entries in reply or ():
        index, source = places[stream]
        taken += [(index, raw_entry(source, entry)) for entry in entries]
    return await _without_cancelled(inboxes, consumer, taken) if marked and taken else taken


async def _without_cancelled(
    inboxes: Sequence[Inbox], consumer: str, taken: Sequence[tuple[int, RawEntry]]
) -> list[tuple[int, RawEntry]]:
    left: list[tuple[int, RawEntry]] = []
    for index in sorted({index for index, _ in taken}):
        entries = [entry for of, entry in taken if of == index]
        left += [(index, entry) for entry in await inboxes[index].weed(consumer, entries)]
    return left
