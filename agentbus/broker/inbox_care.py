"""What keeps an inbox in order: what comes due, what the dead held, what nobody saw, what may go.

Stream commands are spoken here, in ``parked_read``, in ``reply_log`` and, to look, in ``inspection``.
"""

from __future__ import annotations

from agentbus.broker.answers import Holding, Promoted, RawEntry, Reclaimed, promoted, raw_entry
from agentbus.broker.connection import Broker
from agentbus.broker.inbox_scripts import InboxScripts
from agentbus.broker.keys import GROUP, archive
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import GroupMissing

#: Entries of a consumer that one reclaim step moves: about two milliseconds of the server's time.
RECLAIM_STEP = 200
#: Deaths of an owner that make a message a dead letter.
FATAL_CRASHES = 3
PROMOTE_STEP = 200
TRIM_STEP = 2_000


class InboxCare(InboxScripts):
    """The verbs of those who look after an inbox."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        super().__init__(broker, prefix, address)
        self._archive = archive(prefix)

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
