"""One inbox for people: lanes, consumers, due and dead messages, and whether its ledger closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inspection.look import (
    EntryId,
    Look,
    StreamLook,
    format_id,
    parse_id,
    take_look,
)
from agentbus.broker.keys import GROUP, InboxKeys, addresses, inbox_keys

#: Ways in which a message ends and is gone from its inbox.
ENDINGS = ("processed", "expired", "cancelled", "discarded", "resolved", "moved")
_PAGE_BYTES = 1024 * 1024
_LARGEST_PAGE = 5_000
#: Walks before the view says that the inbox would not hold still.
_TRIES = 3
#: Held entries per stream and consumer that are asked for their age.
_AGES = 100


@dataclass(frozen=True, slots=True)
class LaneView:
    """One stream of an inbox."""

    name: str
    #: Counted one by one.
    waiting: int
    in_flight: int
    #: Ended messages that are kept as history.
    ended: int
    #: How long the oldest waiting one has waited, in ms.
    oldest_ms: int | None
    #: Entries that no script added: somebody's XADD. Below zero: the stream was deleted by hand.
    hand_made: int


@dataclass(frozen=True, slots=True)
class ConsumerView:
    """One process (or one life of it) that takes from the inbox."""

    name: str
    in_flight: int
    #: How long it has held what it has held longest, in ms.
    longest_held_ms: int | None
    #: Its beat counter; None when it has lost its lease, or left with something in hand.
    beat: int | None
    #: How late its event loop was at the last beat, in ms.
    loop_lag_ms: int | None
    #: ``serving``, ``draining`` or ``gone``.
    phase: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where every message went. It closes when what came in equals what ended plus what is still here."""

    accepted: int
    hand_made: int
    #: By name: processed, expired, cancelled, discarded, resolved, moved.
    ended: Mapping[str, int]
    #: Deleted by somebody else while held or due.
    vanished: int
    dead: int
    due: int
    in_flight: int
    waiting: int
    #: Moves inside the inbox: retried, deferred, bounced, released, reclaimed, parked, redriven.
    moves: Mapping[str, int]

    @property
    def difference(self) -> int:
        """Messages unaccounted for; below zero: more are here than ever came in. 0 = it closes."""
        here = self.vanished + self.dead + self.due + self.in_flight + self.waiting
        return self.accepted + self.hand_made - sum(self.ended.values()) - here

    @property
    def closes(self) -> bool:
        """Whether every message is accounted for."""
        return self.difference == 0


@dataclass(frozen=True, slots=True)
class InboxView:
    """One inbox at one moment."""

    address: str
    #: The server's clock, in ms.
    server_ms: int
    #: When somebody first served the address, in ms; None: nobody ever has.
    served_since_ms: int | None
    lanes: Sequence[LaneView]
    consumers: Sequence[ConsumerView]
    due: int
    #: Until the next message comes due, in ms; below zero: it is late.
    next_due_in_ms: int | None
    dead: int
    ledger: Ledger
    #: False when messages moved during the count: the ledger may then be off by what moved.
    steady: bool

    @property
    def exists(self) -> bool:
        """Whether anything was ever sent to or served at this address."""
        return self.served_since_ms is not None or bool(
            self.ledger.accepted or self.dead or self.due or any(lane.waiting for lane in self.lanes)
        )

    @property
    def waiting(self) -> int:
        """Messages that wait, in all lanes."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def in_flight(self) -> int:
        """Messages that somebody holds."""
        return sum(lane.in_flight for lane in self.lanes)


@dataclass(frozen=True, slots=True)
class AddressTotals:
    """One line of the list of addresses. ``waiting`` is the server's count or the ledger's, not a walk."""

    address: str
    waiting: int
    in_flight: int
    due: int
    dead: int
    consumers: int
    accepted: int
    processed: int
    served_since_ms: int | None


async def known_addresses(broker: Broker, prefix: str) -> list[str]:
    """Return every address in use, in order."""
    return sorted(member.decode() for member in await broker.execute("SMEMBERS", addresses(prefix)))


async def totals_of(broker: Broker, prefix: str, address: str) -> AddressTotals:
    """Return the totals of one address."""
    return totals(address, await take_look(broker, inbox_keys(prefix, address)))


def totals(address: str, look: Look) -> AddressTotals:
    """Return the totals of what was seen in one look."""
    return AddressTotals(
        address=address,
        waiting=_estimated_waiting(look),
        in_flight=sum(stream.pending for stream in look.streams),
        due=look.due,
        dead=look.dead,
        consumers=len(look.beats),
        accepted=look.ledger.get("accepted", 0),
        processed=look.ledger.get("processed", 0),
        served_since_ms=look.ledger.get("served"),
    )


def _estimated_waiting(look: Look) -> int:
    counts = [len(stream.page) if stream.page_is_all else stream.lag for stream in look.streams]
    known = sum(count for count in counts if count is not None)
    if None not in counts:
        return known
    # The server has lost count of a lane: what must be here by the ledger tells.
    counted = look.ledger.get
    arrived = counted("accepted", 0) + sum(
        stream.added - counted(f"added:{stream.name}", 0) for stream in look.streams
    )
    gone = sum(counted(name, 0) for name in ENDINGS) + counted("vanished", 0) + look.dead + look.due
    return max(known, arrived - gone - sum(stream.pending for stream in look.streams))


async def inspect_inbox(broker: Broker, prefix: str, address: str) -> InboxView:
    """Return one inbox, waiting messages counted one by one.

    What waits in few entries is read in one transaction with everything else. More is counted afterwards;
    if something moved meanwhile it is tried again, and `InboxView.steady` says how it came out.
    """
    keys = inbox_keys(prefix, address)
    for _ in range(_TRIES):
        look = await take_look(broker, keys)
        waiting = [await _count_waiting(broker, stream) for stream in look.streams]
        steady = all(stream.page_is_all for stream in look.streams)
        if not steady:
            steady = (await take_look(broker, keys)).fingerprint() == look.fingerprint()
        if steady:
            break
    return _view(address, look, waiting, await _ages(broker, keys, look), steady)


async def _count_waiting(broker: Broker, stream: StreamLook) -> int:
    """Count what waits in one stream up to the last entry of the look."""
    if stream.page_is_all:
        return len(stream.page)
    count = len(stream.page)
    position = max(stream.page[-1] if stream.page else stream.last_delivered, stream.last_delivered)
    size = 10
    while position < stream.last_id:
        entries = await broker.execute(
            "XRANGE", stream.key, f"({format_id(position)}", format_id(stream.last_id), "COUNT", size
        )
        if not entries:
            break
        count += len(entries)
        position = parse_id(entries[-1][0])
        # The server has no command that counts without sending: the page follows the size of the bodies.
        average = sum(len(field) for entry in entries for field in entry[1]) // len(entries) + 1
        size = max(1, min(_LARGEST_PAGE, _PAGE_BYTES // average))
    return count


async def _ages(broker: Broker, keys: InboxKeys, look: Look) -> dict[str, int]:
    """Return, for each consumer that holds something, how long it has held it at most, in ms."""
    asked = [(stream.key, consumer) for stream in look.streams for consumer in stream.holders]
    commands: list[tuple[Argument, ...]] = [
        ("XPENDING", key, GROUP, "-", "+", _AGES, consumer) for key, consumer in asked
    ]
    ages: dict[str, int] = {}
    replies = await broker.pipeline(commands) if commands else []
    for (_, consumer), reply in zip(asked, replies, strict=True):
        for item in () if isinstance(reply, Exception) else reply:
            ages[consumer] = max(ages.get(consumer, 0), int(item[2]))
    return ages


def _view(
    address: str, look: Look, waiting: Sequence[int], ages: Mapping[str, int], steady: bool
) -> InboxView:
    lanes = tuple(_lane(stream, count, look) for stream, count in zip(look.streams, waiting, strict=True))
    return InboxView(
        address=address,
        server_ms=look.server_ms,
        served_since_ms=look.ledger.get("served"),
        lanes=lanes,
        consumers=_consumers(look, ages),
        due=look.due,
        next_due_in_ms=None if look.next_due_ms is None else look.next_due_ms - look.server_ms,
        dead=look.dead,
        ledger=Ledger(
            accepted=look.ledger.get("accepted", 0),
            hand_made=sum(lane.hand_made for lane in lanes),
            ended={name: look.ledger.get(name, 0) for name in ENDINGS},
            vanished=look.ledger.get("vanished", 0),
            dead=look.dead,
            due=look.due,
            in_flight=sum(lane.in_flight for lane in lanes),
            waiting=sum(waiting),
            moves={
                name: look.ledger.get(name, 0)
                for name in ("retried", "deferred", "bounced", "released", "reclaimed", "parked", "redriven")
            },
        ),
        steady=steady,
    )


def _lane(stream: StreamLook, waiting: int, look: Look) -> LaneView:
    return LaneView(
        name=stream.name,
        waiting=waiting,
        in_flight=stream.pending,
        ended=max(0, stream.length - waiting - stream.pending),
        oldest_ms=_age(stream.page[0], look.server_ms) if waiting and stream.page else None,
        hand_made=stream.added - look.ledger.get(f"added:{stream.name}", 0),
    )


def _age(entry_id: EntryId, server_ms: int) -> int:
    """Return the age of an entry in ms; one with a hand-made id from the future has none."""
    return max(0, server_ms - entry_id[0])


def _consumers(look: Look, ages: Mapping[str, int]) -> tuple[ConsumerView, ...]:
    held: dict[str, int] = {}
    for stream in look.streams:
        for consumer, count in stream.holders.items():
            held[consumer] = held.get(consumer, 0) + count
    views = []
    for name in sorted({*look.beats, *held}):
        beat, lag, phase = parse_beat(look.beats.get(name))
        views.append(ConsumerView(name, held.get(name, 0), ages.get(name), beat, lag, phase))
    return tuple(views)


def parse_beat(text: str | None) -> tuple[int | None, int | None, str]:
    """Return counter, loop lag in ms and phase of a beat; ``gone`` without one."""
    if text is None:
        return None, None, "gone"
    counter, _, rest = text.partition(" ")
    lag, _, rest = rest.partition(" ")
    phase, _, _ = rest.partition(" ")
    if not counter.isdigit() or not lag.isdigit():
        return None, None, f"unreadable: {text}"
    return int(counter), int(lag), phase
