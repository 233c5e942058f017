"""One address as Redis holds it: the verbs of an inbox.

Stream commands are spoken here, in ``parked_read``, in ``reply_log`` and, to look, in ``inspection``. Each
verb is one script call, one atomic step; what it needs of the server's answer comes back as a value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentbus.broker.connection import Argument, Broker, Link
from agentbus.broker.keys import GROUP, InboxKeys, archive, inbox_keys
from agentbus.broker.scripts import Call, load, run, run_all
from agentbus.errors import BrokerRefused, GroupMissing, StaleDelivery, WrongKeyType

#: Entries of a consumer that one reclaim step moves: about two milliseconds of the server's time.
RECLAIM_STEP = 200
#: Deaths of an owner that make a message a dead letter.
FATAL_CRASHES = 3
PROMOTE_STEP = 200
TRIM_STEP = 2_000


class RawEntry(NamedTuple):
    """One entry as it was handed out."""

    #: Index into `keys.SOURCES`.
    source: int
    entry_id: bytes
    #: The envelope as JSON text; empty when the entry has no such field.
    message: bytes
    #: The state as JSON text; empty when there is none.
    state: bytes


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What became of one published batch."""

    #: ``stored``, ``recovered`` (it was stored before, the reply was lost) or ``gap`` (nothing written).
    kind: str
    #: Whether anybody has ever served the address.
    known: bool = False
    #: The durability that the address's policy asks for, empty when it has none; then ` <type>=<level>` for
    #: each message type with its own.
    durability: str = ""
    #: ``stored``: an entry id, ``due <id> <ms>`` or ``!refusal`` for each message.
    results: Sequence[bytes] = ()
    #: ``recovered``: refusals by position in the batch, counted from 1.
    refusals: Mapping[str, str] | None = None
    #: ``gap``: the last position the server knows.
    last: int = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """What a consumer learns when it joins."""

    server_ms: int
    served_before: bool


@dataclass(frozen=True, slots=True)
class Promoted:
    """What came due."""

    moved: int
    #: Server time in ms at which the next message comes due.
    next_due_ms: int | None
    server_ms: int
    more: bool
    #: How late the latest of those that moved was, in ms.
    late_ms: int = 0


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one step of a takeover did; None instead of this when the consumer lives."""

    moved: int
    more: bool
    #: Messages that became dead letters, as JSON text: their askers wait.
    dead: Sequence[bytes]
    #: How many of them are parked, because the address has as many dead letters as it may.
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Burial:
    """What became of a delivery that failed for good."""

    #: The dead letter; empty when there was no room for it.
    letter: str
    #: Server time in ms at which a parked one is looked at again; None when it is a dead letter.
    parked_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """One consumer of the group."""

    name: str
    pending: int


class Inbox:
    """The inbox of one address."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self.address = address
        self.keys: InboxKeys = inbox_keys(prefix, address)
        self._archive = archive(prefix)

    async def _run(
        self, name: str, keys: Sequence[str], *arguments: Argument, link: Link | None = None
    ) -> Any:
        try:
            return await run(link or self._broker, Call(load(name), keys, arguments))
        except WrongKeyType as error:
            raise await self._named(error) from error

    async def run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        """Run a script of another room on this address; errors name the key that has the wrong type."""
        return await self._run(name, keys, *arguments)

    async def run_many(
        self, name: str, keys: Sequence[str], steps: Sequence[Sequence[Argument]]
    ) -> list[Any]:
        """Run one script several times in one round trip; a refused step has its `BrokerError` as reply."""
        script = load(name)
        replies = await run_all(self._broker, [Call(script, keys, arguments) for arguments in steps])
        return [await self._named(reply) if isinstance(reply, WrongKeyType) else reply for reply in replies]

    async def _named(self, error: WrongKeyType) -> WrongKeyType:
        """Say which key has the wrong type: the server's own message does not."""
        expected = {
            self.keys.lanes: b"zset", self.keys.due: b"zset", self.keys.delayed: b"hash",
            self.keys.dead: b"stream", self.keys.resolved: b"stream", self.keys.ended: b"stream",
            self.keys.archived: b"hash", self.keys.retention: b"hash", self.keys.alive: b"hash",
            self.keys.started: b"hash", self.keys.cancelled: b"hash",
            self.keys.outcomes: b"stream", self.keys.ledger: b"hash", self.keys.policy: b"hash",
            self.keys.loops_even: b"hash", self.keys.loops_odd: b"hash",
            self.keys.owed: b"zset", self.keys.owed_messages: b"hash",
            **dict.fromkeys(self.keys.sources, b"stream"),
        }  # fmt: skip
        types = await self._broker.pipeline([("TYPE", key) for key in expected])
        wrong = [
            f"{key} is a {found.decode()}, not a {expected[key].decode()}"
            for key, found in zip(expected, types, strict=True)
            if isinstance(found, bytes) and found not in (b"none", expected[key])
        ]
        return WrongKeyType("; ".join(wrong) or str(error))

    # --- the way out ---

    async def publish(
        self,
        producer: str,
        first: int,
        lanes: str,
        options: str,
        texts: Sequence[bytes],
        limits: tuple[int, int, int],
    ) -> BatchAnswer:
        """Store one frozen batch; see ``publish.lua``.

        ``limits`` are the life of the producer record (ms), the most unsettled messages, and the window of
        idempotency keys (ms).
        """
        keys = self.keys
        reply = await self._run(
            "publish",
            (
                keys.producer + producer, keys.ledger, keys.lanes, keys.due, keys.delayed, keys.dead,
                keys.keys_even, keys.keys_odd, keys.keys_due, *keys.priority_lanes, keys.policy,
                *((keys.loops_even, keys.loops_odd, keys.owed, keys.owed_messages) if options else ()),
            ),
            first, lanes, limits[0], limits[1], limits[2], options, keys.nudge, *texts,
        )  # fmt: skip
        return batch_answer(reply)

    # --- policy ---

    async def policy_fields(self) -> dict[str, str]:
        """Return the declared policy as it is stored; empty when there is none."""
        reply = await self._broker.execute("HGETALL", self.keys.policy)
        items = iter(reply)
        return {field.decode(): value.decode() for field, value in zip(items, items, strict=True)}

    # --- taking part ---

    async def join(self, consumer: str, lease_ms: int | None = None) -> Joined:
        """Make a consumer known; raises `BrokerRefused` when the name is in use.

        ``lease_ms`` tells those who judge it how long it may go without a beat.
        """
        keys = self.keys
        lease = "" if lease_ms is None else lease_ms
        reply = await self._run("join", (keys.alive, keys.ledger, *keys.sources), consumer, lease)
        if reply[0] == b"taken":
            raise BrokerRefused(f"a consumer named {consumer} already serves {self.address}")
        return Joined(server_ms=int(reply[1]), served_before=reply[3] == 1)

    def beat(self, consumer: str, lag_ms: int, phase: str) -> Call:
        """Return the call that raises a consumer's beat: ``[1, server ms]``, or ``[0, …]`` when fenced."""
        return Call(load("beat"), (self.keys.alive,), (consumer, lag_ms, phase))

    async def leave(self, consumer: str) -> int:
        """Take a consumer out; returns how many entries it still held (a sweep takes them)."""
        keys = self.keys
        reply = await self._run("leave", (keys.alive, keys.started, *keys.sources), consumer)
        return int(reply[1])

    # --- the way back ---

    async def fetch(
        self, consumer: str, most: int, most_bytes: int, link: Link | None = None
    ) -> list[RawEntry]:
        """Take up to ``most`` messages in serving order; raises `StaleDelivery` when fenced."""
        keys = self.keys
        reply = (b"expired",)
        while reply[0] == b"expired":
            reply = await self._run(
                "fetch",
                (keys.alive, keys.ledger, keys.lanes, keys.outcomes, *keys.sources, keys.cancelled),
                consumer, most, most_bytes, link=link,
            )  # fmt: skip
        self._check(reply)
        items = iter(reply[2:])
        return list(map(RawEntry, items, items, items, items))

    async def weed(self, consumer: str, entries: Sequence[RawEntry]) -> list[RawEntry]:
        """End what was cancelled among entries that a consumer was handed; returns the others.

        Raises `StaleDelivery` when fenced.
        """
        keys = self.keys
        places = [part for entry in entries for part in (entry.source, entry.entry_id)]
        reply = await self._run(
            "weed", (keys.alive, keys.ledger, keys.outcomes, keys.cancelled, *keys.sources), consumer, *places
        )
        self._check(reply)
        return [entry for entry, ended in zip(entries, reply, strict=True) if ended == 0]

    async def settle(self, consumer: str, outcome: str, entries: Mapping[int, Iterable[bytes]]) -> int:
        """End deliveries; returns how many were still open. Raises `StaleDelivery` when fenced."""
        keys = self.keys
        arguments: list[Argument] = [consumer, outcome]
        for source, ids in entries.items():
            arguments += (source, b" ".join(ids))
        reply = await self._run("settle", (keys.alive, keys.ledger, keys.outcomes, *keys.sources), *arguments)
        self._check(reply)
        return int(reply[1])

    async def postpone(
        self, consumer: str, entry: RawEntry, delay_ms: int, kind: str, failure: str, message_id: str
    ) -> int | None:
        """Move a delivery to ``due``; ``kind`` is retried, deferred or bounced.

        Returns when it comes due (server time in ms); None when it was settled before.
        """
        keys = self.keys
        reply = await self._run(
            "postpone",
            (keys.alive, keys.ledger, keys.due, keys.delayed, keys.outcomes, keys.sources[entry.source]),
            consumer, entry.entry_id, entry.source, delay_ms, kind, failure, message_id, keys.nudge,
        )  # fmt: skip
        self._check(reply)
        return int(reply[1]) if reply[0] == b"postponed" else None

    async def bury(
        self, consumer: str, entry: RawEntry, reason: str, detail: str, failure: str, max_retries: int | None
    ) -> Burial | None:
        """Make a delivery a dead letter, parked if there is no room; None when it was settled before."""
        keys = self.keys
        reply = await self._run(
            "bury",
            (
                keys.alive, keys.ledger, keys.dead, keys.outcomes, keys.sources[entry.source],
                keys.due, keys.delayed, keys.resolved, keys.policy,
            ),
            consumer, entry.entry_id, entry.source, reason, detail, failure,
            "" if max_retries is None else max_retries, keys.nudge,
        )  # fmt: skip
        self._check(reply)
        if reply[0] == b"parked":
            return Burial("", int(reply[1]))
        return Burial(reply[1].decode()) if reply[0] == b"buried" else None

    async def release(self, consumer: str, entries: Mapping[int, Iterable[bytes]]) -> int:
        """Hand deliveries back at once, nothing spent; returns how many were still held."""
        keys = self.keys
        arguments: list[Argument] = [consumer]
        for source, ids in entries.items():
            arguments += (source, b" ".join(ids))
        reply = await self._run(
            "release", (keys.alive, keys.ledger, keys.outcomes, *keys.sources), *arguments
        )
        self._check(reply)
        return int(reply[1])

    async def mark_started(self, consumer: str, entry: RawEntry) -> None:
        """Mark the one suspect that this consumer is about to start."""
        reply = await self._run(
            "mark", (self.keys.alive, self.keys.started), consumer, entry.source, entry.entry_id
        )
        self._check(reply)

    def _check(self, reply: Any) -> None:
        if reply[0] == b"fenced":
            raise StaleDelivery(f"the lease on {self.address} was lost; somebody else has its messages now")

    # --- housekeeping ---

    async def promote(self, window_ms: int, most: int = PROMOTE_STEP) -> Promoted:
        """Move messages that came due to where they are read."""
        call = self.promote_call(window_ms, most)
        return promoted(await self._run("promote", call.keys, *call.arguments))

    def promote_call(self, window_ms: int, most: int) -> Call:
        """Return the call behind `promote`, for promoting at many inboxes at once; see `promoted`."""
        keys = self.keys
        touched = (
            keys.ledger, keys.due, keys.delayed, keys.lanes, keys.outcomes, keys.keys_even, keys.keys_odd,
            keys.keys_due, keys.ended, *keys.sources, keys.dead, keys.resolved, keys.policy,
        )  # fmt: skip
        return Call(load("promote"), touched, (most, window_ms))

    async def reclaim(self, consumer: str, seen_beat: str) -> Reclaimed | None:
        """Take what a dead consumer held, one step; ``seen_beat`` '' = its name is not in ``alive``."""
        keys = self.keys
        reply = await self._run(
            "reclaim",
            (
                keys.alive, keys.started, keys.ledger, keys.dead, keys.outcomes, *keys.sources,
                keys.due, keys.delayed, keys.resolved, keys.policy, keys.cancelled,
            ),
            consumer, seen_beat, RECLAIM_STEP, FATAL_CRASHES, keys.nudge,
        )  # fmt: skip
        if reply[0] == b"alive":
            return None
        return Reclaimed(int(reply[1]), reply[2] == 1, tuple(reply[4:]), int(reply[3]))

    async def make_groups(self) -> bool:
        """Create streams and groups that were deleted; returns whether any was missing."""
        replies = await self._broker.pipeline(
            [("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM") for stream in self.keys.sources]
        )
        return any(not isinstance(reply, Exception) for reply in replies)

    async def sweep(self) -> bool:
        """List lanes that a hand-made entry left out of the index; returns whether anything waits."""
        call = self.sweep_call()
        reply = await self._run("sweep", call.keys)
        return bool(reply[0] == 1)

    def sweep_call(self) -> Call:
        """Return the call behind `sweep`, for sweeping many inboxes at once."""
        return Call(load("sweep"), (self.keys.lanes, *self.keys.sources, self.keys.ledger), ())

    async def trim(
        self, messages: int, age_ms: int, most_bytes: int, archived_only: bool = False
    ) -> tuple[int, bool]:
        """Remove ended entries beyond the history kept; returns how many, and whether there are more.

        ``archived_only``: nothing goes that the archive has not committed.
        """
        keys = self.keys
        reply = await self._run(
            "trim", (keys.outcomes, *keys.sources, keys.archived),
            messages, age_ms, most_bytes, TRIM_STEP, int(archived_only),
        )  # fmt: skip
        return int(reply[0]), reply[1] == 1

    async def archive_is_on(self) -> bool:
        """Whether this deployment archives: then history waits for it."""
        return bool(await self._broker.execute("HGET", self._archive, "on") == b"1")

    async def beats(self) -> dict[str, str]:
        """Return consumer to beat, as the server has it now."""
        reply = await self._broker.execute("HGETALL", self.keys.alive)
        items = iter(reply)
        return {name.decode(): beat.decode() for name, beat in zip(items, items, strict=True)}

    async def holdings(self) -> list[Holding]:
        """Return every consumer of the group with the number of entries it holds over all streams."""
        replies = await self._broker.pipeline(
            [("XINFO", "CONSUMERS", stream, GROUP) for stream in self.keys.sources]
        )
        held: dict[str, int] = {}
        for reply in replies:
            if isinstance(reply, Exception):
                if isinstance(reply, GroupMissing) or "no such key" in str(reply):
                    continue
                raise reply
            for consumer in reply:
                fields = dict(zip(consumer[::2], consumer[1::2], strict=True))
                name = fields[b"name"].decode()
                held[name] = held.get(name, 0) + int(fields[b"pending"])
        return [Holding(name, pending) for name, pending in held.items()]

    async def strangers(self) -> list[str]:
        """Return every consumer of the group that is not alive: it holds nothing by right."""
        return [name.decode() for name in await run(self._broker, self.strangers_call())]

    def strangers_call(self) -> Call:
        """Return the call behind `strangers`, for asking many inboxes at once."""
        return Call(load("strangers"), (self.keys.alive, *self.keys.sources), ())

    async def held_ids(self, consumer: str, most: int = 1000) -> list[tuple[int, bytes]]:
        """Return (source, entry id) of what is pending for a consumer.

        XPENDING, not XREADGROUP with an id: that would raise delivery counters and reset idle times.
        """
        replies = await self._broker.pipeline(
            [("XPENDING", stream, GROUP, "-", "+", most, consumer) for stream in self.keys.sources]
        )
        ids: list[tuple[int, bytes]] = []
        for source, reply in enumerate(replies):
            if isinstance(reply, Exception):
                raise reply
            ids += [(source, item[0]) for item in reply]
        return ids

    async def read_entry(self, source: int, entry_id: bytes) -> RawEntry | None:
        """Return one entry without touching its delivery; None when it was deleted."""
        reply = await self._broker.execute("XRANGE", self.keys.sources[source], entry_id, entry_id)
        return raw_entry(source, reply[0]) if reply else None

    async def restore(self, consumer: str, source: int, entry_id: bytes) -> bool:
        """Put an entry that somebody took off a consumer's list back on it; False when there is no need."""
        keys = (self.keys.alive, self.keys.sources[source])
        reply = await self._run("restore", keys, consumer, entry_id)
        self._check(reply)
        return bool(reply[0] == b"restored")

    async def forget(self, source: int, entry_id: bytes) -> None:
        """Acknowledge an entry that somebody deleted from the stream; it cannot be handled any more."""
        await self._run("forget", (self.keys.ledger, self.keys.sources[source]), entry_id)


def batch_answer(reply: Sequence[Any]) -> BatchAnswer:
    """Return the answer of ``publish.lua`` or ``append.lua`` as a value."""
    kind = reply[0]
    if kind == b"stored":
        return BatchAnswer("stored", reply[1] == 1, reply[2].decode(), results=reply[3:])
    if kind == b"recovered":
        refusals = json.loads(reply[3]) if reply[3] else {}
        return BatchAnswer("recovered", reply[1] == 1, reply[2].decode(), refusals=refusals)
    return BatchAnswer("gap", last=int(reply[1]))


def promoted(reply: Sequence[Any]) -> Promoted:
    """Return what `Inbox.promote_call` was answered."""
    upcoming = float(reply[1] or "inf")
    next_due = int(upcoming) if math.isfinite(upcoming) else None
    return Promoted(int(reply[0]), next_due, int(reply[2]), reply[3] == 1, int(reply[4]))


def raw_entry(source: int, entry: Sequence[Any]) -> RawEntry:
    """Return an entry in the shape that `Inbox.fetch` gives it."""
    entry_id, fields = entry
    values = dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
    return RawEntry(source, entry_id, values.get(b"message", b""), values.get(b"state", b""))
