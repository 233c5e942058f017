"""What addresses hold, in numbers that the server has anyway: quick enough for thousands of addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.look import LARGEST, EntryId, parse_id
from agentbus.broker.keys import SOURCES, addresses, channel_keys, inbox_keys
from agentbus.broker.scripts import Call, load, run_all
from agentbus.errors import BrokerUnavailable
from agentbus.message.topics import is_channel

#: Addresses that are asked for at once.
_STEP = 100
#: Ways in which a message ends and is gone from its inbox.
_ENDINGS = ("processed", "expired", "cancelled", "discarded", "resolved", "moved")
_COUNTERS = (
    "accepted", *_ENDINGS, "vanished", "handmade", "retried", "deferred", "bounced", "released", "reclaimed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InboxCounts:
    """One inbox at one moment."""

    address: str
    #: The server's clock, in ms.
    server_ms: int
    #: Those that hold a lease. One that died counts until somebody has taken over its work.
    consumers: int
    in_flight: int
    due: int
    #: Server time in ms of the next due message.
    next_due_ms: int | None
    dead: int
    #: How long the oldest waiting message has waited where it waits, in ms.
    oldest_ms: int | None
    #: Messages that wait, in all lanes.
    waiting: int
    #: Waiting messages by stream (``returned`` and the priorities); None: only their sum is known.
    depths: Mapping[str, int | None]
    #: Whether `waiting` is worked out from the ledger, because the server has lost count: it does when the
    #: entry that was handed out last is gone (retried, dead), until everything has been handed out.
    estimated: bool
    #: accepted, processed, …, retried, …: as the ledger counts since the address began.
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ChannelCounts:
    """The log of one channel at one moment."""

    address: str
    #: The server's clock, in ms.
    server_ms: int
    length: int
    #: Messages ever accepted.
    accepted: int
    #: Entries that no script added: somebody's XADD.
    hand_made: int
    first_id: EntryId | None
    last_id: EntryId
    #: The most messages its policy allows in the log; None without one.
    limit: int | None
    #: Agents with a cursor here.
    subscribers: int

    @property
    def last_ms(self) -> int | None:
        """Server time in ms of the last message; None for an empty log."""
        return self.last_id[0] if self.length else None

    @property
    def bricked(self) -> bool:
        """Whether the log takes no more entries."""
        return self.last_id == LARGEST


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An address that could not be counted."""

    address: str
    problem: str


Counts = InboxCounts | ChannelCounts | Unreadable


async def scan_addresses(broker: Broker, prefix: str) -> AsyncIterator[list[str]]:
    """Yield every address in use once, some at a time; one that comes meanwhile may be missed."""
    cursor, seen = b"0", set[str]()
    while True:
        cursor, found = await broker.execute("SSCAN", addresses(prefix), cursor, "COUNT", _STEP)
        names = {name.decode(errors="replace") for name in found} - seen
        seen |= names
        if names:
            yield sorted(names)
        if cursor == b"0":
            return


async def count_addresses(broker: Broker, prefix: str, names: Sequence[str]) -> list[Counts]:
    """Count some addresses in one round trip; some 200 at once are a few ms of the server's time."""
    replies = await run_all(broker, [_call(prefix, name) for name in names])
    return [_counts(name, reply) for name, reply in zip(names, replies, strict=True)]


def _call(prefix: str, address: str) -> Call:
    if is_channel(address):
        channel = channel_keys(prefix, address)
        return Call(load("channel_status"), (channel.log, channel.ledger, channel.policy), ())
    inbox = inbox_keys(prefix, address)
    return Call(load("status"), (inbox.ledger, inbox.alive, inbox.due, inbox.dead, *inbox.sources), _COUNTERS)


def _counts(address: str, reply: Any) -> Counts:
    if isinstance(reply, BrokerUnavailable):
        raise reply
    if isinstance(reply, Exception):
        return Unreadable(address, str(reply))
    return _channel(address, reply) if is_channel(address) else _inbox(address, reply)


def _inbox(address: str, reply: Sequence[Any]) -> InboxCounts:
    server_ms, consumers, in_flight, due, next_due, dead, oldest = map(int, reply[:7])
    depths = dict(zip(SOURCES, map(int, reply[7 : 7 + len(SOURCES)]), strict=True))
    counters = dict(zip(_COUNTERS, map(_number, reply[7 + len(SOURCES) :]), strict=True))
    lost = [name for name, depth in depths.items() if depth < 0]
    waiting = known = sum(depth for depth in depths.values() if depth > 0)
    if lost:
        # In each of them something waits, or the script would have said 0.
        waiting = max(_by_ledger(counters) - dead - due - in_flight, known + len(lost))
    if len(lost) == 1:
        depths[lost[0]] = waiting - known
    return InboxCounts(
        address=address,
        server_ms=server_ms,
        consumers=consumers,
        in_flight=in_flight,
        due=due,
        next_due_ms=None if next_due < 0 else next_due,
        dead=dead,
        # An id made by hand may lie in the future: such a message has not waited yet.
        oldest_ms=None if oldest < 0 else max(0, server_ms - oldest),
        waiting=waiting,
        depths={name: None if depth < 0 else depth for name, depth in depths.items()},
        estimated=bool(lost),
        counters=counters,
    )


def _by_ledger(counters: Mapping[str, int]) -> int:
    """Return how many messages must be here still: the ledger closes unless somebody deletes by hand."""
    gone = sum(counters[name] for name in _ENDINGS) + counters["vanished"]
    return counters["accepted"] + counters["handmade"] - gone


def _channel(address: str, reply: Sequence[Any]) -> ChannelCounts:
    server_ms, length, added, last_id, first_id, accepted, by_scripts, limit, groups = reply
    return ChannelCounts(
        address=address,
        server_ms=int(server_ms),
        length=int(length),
        accepted=_number(accepted),
        hand_made=int(added) - _number(by_scripts),
        first_id=parse_id(first_id) if first_id else None,
        last_id=parse_id(last_id),
        limit=_number(limit) or None,
        subscribers=int(groups),
    )


def _number(text: bytes | None) -> int:
    """Return a counter; one that somebody wrote by hand reads as 0."""
    return int(text) if text is not None and text.lstrip(b"-").isdigit() else 0
