"""One address as Redis holds it: the verbs of an inbox.

Each verb is one script call, one atomic step; what it needs of the server's answer comes back as a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agentbus.broker.answers import BatchAnswer, Burial, Joined, RawEntry, batch_answer
from agentbus.broker.connection import Argument, Link
from agentbus.broker.inbox_care import InboxCare
from agentbus.broker.scripts import Call, load
from agentbus.errors import BrokerRefused


class Inbox(InboxCare):
    """The inbox of one address: the verbs of those who send, receive and settle, and all that care for it."""

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
