"""One agent's place in the log of a channel: the verbs of an inbox, spoken to a consumer group on a log.

The log is everybody's, so nothing is moved within it. What needs a life of its own (a retry, a dead letter)
is carried into the agent's inbox, and ends here as ``moved``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.answers import Burial, Joined, RawEntry, Reclaimed, raw_entry
from agentbus.broker.carry import Carrier, Death, Origin
from agentbus.broker.connection import Argument, Broker, Link
from agentbus.broker.keys import SubscriberKeys, subscriber_keys
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerRefused, NoSuchCursor, StaleDelivery
from agentbus.message.durations import is_ttl

#: The number of the one stream of a channel, where an inbox has several.
LOG = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that retention removed before a subscriber had read them."""

    #: How many; None when it is not known.
    missed: int | None
    #: The entry before the gap, as far as it is known.
    after: str


#: Told of a gap before what comes behind it is handed out.
ToldGap = Callable[[Gap], None]


class Subscription:
    """What one consumer of an agent does at one channel."""

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        address: str,
        agent: str,
        start: str,
        in_order: bool,
        carrier: Carrier,
        tell_gap: ToldGap,
    ) -> None:
        """``start``: where a new cursor begins, ``$`` (now), ``0`` or an entry id."""
        self._broker = broker
        self.address = address
        self.agent = agent
        self._start = start
        self._in_order = in_order
        self._carrier = carrier
        self._tell_gap = tell_gap
        #: When the cursor was made: what a later one of the same agent carries is not taken for this one's.
        self._born = ""
        #: The latest entry that an answer brought here.
        self._seen = b"0-0"
        #: Whether the last fetch found another consumer of the agent reading.
        self.standing_by = False
        #: Told when deliveries were handed back: they wait for the next fetch, which nothing announces.
        self.handed_back: Callable[[], None] = _nobody_waits
        self.keys: SubscriberKeys = subscriber_keys(prefix, address, agent)

    @property
    def in_order(self) -> bool:
        """Whether one consumer of the agent reads at a time."""
        return self._in_order

    async def _run(
        self, name: str, keys: Sequence[str], *arguments: Argument, link: Link | None = None
    ) -> Any:
        reply = await run(link or self._broker, Call(load(name), keys, arguments))
        if reply[0] == b"fenced":
            raise StaleDelivery(f"the lease on {self.address} was lost; somebody else reads for {self.agent}")
        return reply

    # --- taking part ---

    async def join(self, consumer: str, lease_ms: int | None = None) -> Joined:
        """Make a consumer known, and the agent's cursor if there is none."""
        keys = self.keys
        reply = await self._run(
            "subscribe", (keys.alive, keys.subscriber, keys.log),
            consumer, "" if lease_ms is None else lease_ms, self.agent, self._start,
        )  # fmt: skip
        if reply[0] == b"taken":
            raise BrokerRefused(f"a consumer named {consumer} already reads {self.address}")
        if reply[3]:
            self._tell_gap(Gap(None, reply[3].decode()))
        self._born = reply[4].decode()
        return Joined(server_ms=int(reply[1]), served_before=reply[2] == 0)

    def beat(self, consumer: str, lag_ms: int, phase: str) -> Call:
        """Return the call that raises a consumer's beat; see `Inbox.beat`."""
        return Call(load("beat"), (self.keys.alive,), (consumer, lag_ms, phase))

    async def leave(self, consumer: str) -> int:
        """Take a consumer out; returns how many entries it still held: the next reader takes them first."""
        keys = self.keys
        reply = await self._run(
            "unsubscribe", (keys.alive, keys.started, keys.subscriber, keys.log), consumer, self.agent
        )
        return int(reply[1])

    # --- reading ---

    async def fetch(
        self, consumer: str, most: int, most_bytes: int, link: Link | None = None
    ) -> list[RawEntry]:
        """Take up to ``most`` messages in the order of the log; raises `StaleDelivery` when fenced.

        Empty also while another consumer of the agent reads.
        """
        keys = self.keys
        reply = await self._run(
            "fetch_log", (keys.alive, keys.subscriber, keys.log, keys.crashes, keys.reads),
            consumer, self.agent, most, most_bytes, int(self._in_order), self._seen, link=link,
        )  # fmt: skip
        self.standing_by = reply[0] == b"standby"
        if self.standing_by:
            return []
        if reply[1]:
            self._tell_gap(Gap(int(reply[1]), reply[2].decode()))
        items = iter(reply[3:])
        entries = [RawEntry(LOG, *item) for item in zip(items, items, items, strict=True)]
        if entries:
            # Never backwards, after what was handed back: what is in work would be handed out once more.
            self._seen = max(self._seen, entries[-1].entry_id, key=_number)
        return entries

    async def weed(self, consumer: str, entries: Sequence[RawEntry]) -> list[RawEntry]:
        """Return all of them: a log is everybody's, and nothing in it is cancelled."""
        return list(entries)

    # --- ends ---

    async def settle(self, consumer: str, outcome: str, entries: Mapping[int, Iterable[bytes]]) -> int:
        """End deliveries; returns how many were still open. Raises `StaleDelivery` when fenced."""
        keys = self.keys
        reply = await self._run(
            "settle_log", (keys.alive, keys.subscriber, keys.log, keys.crashes, keys.reads),
            consumer, self.agent, outcome, b" ".join(entries.get(LOG, ())),
        )  # fmt: skip
        return int(reply[1])

    async def release(self, consumer: str, entries: Mapping[int, Iterable[bytes]]) -> int:
        """Hand deliveries back at once, nothing spent; returns how many were still held."""
        keys = self.keys
        ids = b" ".join(entries.get(LOG, ()))
        reply = await self._run(
            "hand_back", (keys.alive, keys.log, keys.subscriber), consumer, self.agent, ids
        )
        if reply[2]:
            self._tell_gap(Gap(int(reply[2]), ""))
        self.handed_back()
        return int(reply[1])

    async def postpone(
        self, consumer: str, entry: RawEntry, delay_ms: int, kind: str, failure: str, message_id: str
    ) -> None:
        """Carry a delivery into the agent's inbox, where it comes due; it is this agent's retry alone."""
        spent: dict[str, Any] = {"attempt": 1} if kind == "retried" else {"deferrals": 1}
        state = spent | _crashes(entry) | _failures(failure)
        await self._carry(entry, message_id, state, delay_ms=delay_ms)
        await self.settle(consumer, "moved", {LOG: (entry.entry_id,)})

    async def bury(
        self, consumer: str, entry: RawEntry, reason: str, detail: str, failure: str, max_retries: int | None
    ) -> Burial | None:
        """Carry a delivery into the dead letters of the agent's inbox.

        What is no message at all is told of and left in the log: a letter for each subscriber would help
        nobody.
        """
        if reason == "malformed":
            await self.settle(consumer, "discarded", {LOG: (entry.entry_id,)})
            return None
        death = Death(reason, detail, consumer, 1, max_retries)
        message_id = _message_id(entry)
        place = await self._carry(entry, message_id, _failures(failure), death=death)
        await self.settle(consumer, "moved", {LOG: (entry.entry_id,)})
        return Burial(place.removeprefix("dead ")) if place.startswith("dead ") else None

    async def _carry(self, entry: RawEntry, message_id: str, state: Mapping[str, Any], **where: Any) -> str:
        origin = Origin(self.address, entry.entry_id.decode(), f"{self.agent}@{self._born}")
        carried = await self._carrier.carry(
            f"agent.{self.agent}",
            origin,
            message_id,
            entry.message,
            state={**state, **_expiry(entry)},
            **where,
        )
        return carried.place

    # --- the dead, and what nobody saw ---

    async def mark_started(self, consumer: str, entry: RawEntry) -> None:
        """Mark the one suspect that this consumer is about to start."""
        await self._run("mark", (self.keys.alive, self.keys.started), consumer, LOG, entry.entry_id)

    async def beats(self) -> dict[str, str]:
        """Return consumer to beat, of this agent alone."""
        reply = await self._broker.execute("HGETALL", self.keys.alive)
        items = iter(reply)
        return {name.decode(): beat.decode() for name, beat in zip(items, items, strict=True)}

    async def strangers(self) -> list[str]:
        """Return nobody: what those who are gone held is taken with each fetch."""
        return []

    async def reclaim(self, consumer: str, seen_beat: str) -> Reclaimed | None:
        """Fence a dead consumer; None when it lives."""
        keys = self.keys
        reply = await self._run(
            "reclaim_log", (keys.alive, keys.started, keys.subscriber, keys.log, keys.crashes),
            consumer, seen_beat, self.agent,
        )  # fmt: skip
        return None if reply[0] == b"alive" else Reclaimed(int(reply[1]), False, ())

    async def held_ids(self, consumer: str, most: int = 1000) -> list[tuple[int, bytes]]:
        """Return (`LOG`, entry id) of what is pending for a consumer."""
        reply = await self._broker.execute("XPENDING", self.keys.log, self.agent, "-", "+", most, consumer)
        return [(LOG, item[0]) for item in reply]

    async def read_entry(self, source: int, entry_id: bytes) -> RawEntry | None:
        """Return one entry without touching its delivery; None when it was removed."""
        keys = self.keys
        found = await self._broker.execute("XRANGE", keys.log, entry_id, entry_id)
        if not found:
            return None
        crashes = await self._broker.execute("HGET", keys.crashes, entry_id)
        gap = await self._broker.execute("HGET", keys.subscriber, "gap")
        return raw_entry(source, found[0])._replace(state=_state(entry_id, crashes, gap))

    async def restore(self, consumer: str, source: int, entry_id: bytes) -> bool:
        """Put an entry that somebody took off a consumer's list back on it; False when there is no need."""
        keys = (self.keys.alive, self.keys.log)
        return bool((await self._run("restore", keys, consumer, entry_id, self.agent))[0] == b"restored")

    async def forget(self, source: int, entry_id: bytes) -> None:
        """Acknowledge an entry that was removed while it was held; it cannot be handled any more."""
        keys = (self.keys.subscriber, self.keys.log)
        if await run(self._broker, Call(load("forget"), keys, (entry_id, self.agent))):
            self._tell_gap(Gap(1, ""))

    async def make_groups(self) -> bool:
        """Make the cursor again, where it stood, if somebody deleted it; returns whether it was missing."""
        keys = (self.keys.subscriber, self.keys.log)
        return bool(await run(self._broker, Call(load("remake_cursor"), keys, (self.agent,))))


def _number(entry_id: bytes) -> tuple[int, int]:
    time, _, number = entry_id.partition(b"-")
    return int(time), int(number)


def _nobody_waits() -> None:
    """Stand in until somebody reads."""


async def forget_cursor(broker: Broker, prefix: str, address: str, agent: str) -> int:
    """Remove an agent's cursor at a channel; returns how many messages it had been handed and not settled.

    Raises `NoSuchCursor`, and `BrokerRefused` while a consumer of the agent reads by it.
    """
    keys = subscriber_keys(prefix, address, agent)
    touched = (keys.log, keys.subscriber, keys.alive, keys.started, keys.crashes, keys.reads)
    reply = await run(broker, Call(load("forget_cursor"), touched, (agent,)))
    if reply[0] == b"unknown":
        raise NoSuchCursor(f"{agent} has no cursor at {address}")
    if reply[0] == b"alive":
        raise BrokerRefused(f"{agent} reads {address} now, as {reply[1].decode()}; stop it first")
    return int(reply[1])


def _state(entry_id: bytes, crashes: bytes | None, gap: bytes | None) -> bytes:
    """Return what `fetch_log` would have said beside an entry."""
    state: dict[str, Any] = {} if crashes is None else {"crashes": int(crashes)}
    behind, missed, after = (gap or b"- ? ").split(b" ")
    if behind == entry_id:
        state["gap"] = {"missed": None if missed == b"?" else int(missed), "after": after.decode()}
    return json.dumps(state).encode() if state else b""


def _crashes(entry: RawEntry) -> dict[str, Any]:
    crashes = json.loads(entry.state or b"{}").get("crashes")
    return {"crashes": crashes} if crashes else {}


def _failures(failure: str) -> dict[str, Any]:
    if not failure:
        return {}
    found = json.loads(failure)
    return {"first_failure": found, "last_failure": found}


def _expiry(entry: RawEntry) -> dict[str, Any]:
    """Return the end of its time to live, which an inbox keeps beside a message: it began in the log."""
    ttl = _envelope(entry).get("ttl")
    if not is_ttl(ttl):
        return {}
    return {"expires": int(entry.entry_id.partition(b"-")[0]) + round(ttl * 1000)}


def _message_id(entry: RawEntry) -> str:
    return str(_envelope(entry).get("message_id") or f"entry-{entry.entry_id.decode()}")


def _envelope(entry: RawEntry) -> dict[str, Any]:
    try:
        envelope = json.loads(entry.message)
    except ValueError:
        return {}
    return envelope if isinstance(envelope, dict) else {}
