"""What stays of what has ended at an address, and the removal of the rest.

Subscribers do this for the inboxes they serve, the workers for every address. Any number may do it at once:
each step is one script that decides by itself, takes a bounded part, and can be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

from agentbus.broker.archiving import ArchiveSwitch
from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.inbox_care import TRIM_STEP
from agentbus.broker.keys import SOURCES, channel_keys
from agentbus.broker.policies import parse_policy, read_policy
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerRefused
from agentbus.events import Events
from agentbus.message.address_policy import Policy
from agentbus.message.durations import milliseconds
from agentbus.settings import RetentionSettings

#: Records of outcomes that one step of pruning reads, and letters that one step ends.
_PRUNE_STEP, _LAPSE_STEP = 200, 200
#: Waiting messages that are counted one by one to find out whether any are missing.
_MOST_COUNTED = 500
#: The log of the status, which a worker writes each 15 seconds.
STATUS_ADDRESS = "system.bus"
#: What `Inbox` counts when a message ends; a change says that there may be something to do.
_ENDINGS = ("processed", "expired", "cancelled", "discarded", "resolved", "moved")


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of one address, as the scripts take it."""

    messages: int
    age_ms: int
    bytes: int
    dead: int
    dead_age_ms: int
    #: Outcomes of which history is kept, joined by spaces; None = all.
    outcomes: str | None
    #: Nothing goes that the archive has not committed.
    archived_only: bool

    @classmethod
    def of(cls, policy: Policy, defaults: RetentionSettings, messages: int, archiving: bool = False) -> Kept:
        """Return what the policy says, else the defaults; ``messages`` is the default number."""
        age = defaults.age if policy.history_age is None else policy.history_age
        dead_age = defaults.dead_age if policy.dead_age is None else policy.dead_age
        outcomes = policy.history_outcomes
        return cls(
            messages=messages if policy.history_messages is None else policy.history_messages,
            age_ms=milliseconds(age, "age"),
            bytes=defaults.bytes if policy.history_bytes is None else policy.history_bytes,
            dead=defaults.dead if policy.dead_limit is None else policy.dead_limit,
            dead_age_ms=milliseconds(dead_age, "dead_age"),
            outcomes=None if outcomes is None else " ".join(sorted(outcomes)),
            archived_only=archiving and policy.must_be_archived,
        )


class Trimmed(NamedTuple):
    """How one round of trimming came out."""

    #: There is more to remove than this round was allowed to.
    more: bool
    #: It took several steps of a kind: history comes fast here.
    busy: bool


class InboxRetention:
    """Removes what need not be kept of one inbox."""

    def __init__(self, broker: Broker, inbox: Inbox, defaults: RetentionSettings, events: Events) -> None:
        self._broker = broker
        self._inbox = inbox
        self._defaults = defaults
        self._events = events

    async def trim(self, most_steps: int = 1_000_000) -> Trimmed:
        """Remove what is beyond the policy, in at most so many steps of each kind.

        Raises `BrokerRefused` when a key cannot be trimmed, after the others were.
        """
        policy = await read_policy(self._inbox, self._events)
        archiving = await self._inbox.archive_is_on()
        kept = Kept.of(policy, self._defaults, self._defaults.messages, archiving)
        rounds, problems = [], []
        for step in (self._prune, self._lapse, self._trim_ended, self._trim_lanes):
            try:
                rounds.append(await _repeat(step, kept, most_steps))
            except BrokerRefused as error:
                # A key of the wrong type, say: the lanes grow all the same.
                problems.append(error)
        if problems:
            raise problems[0]
        return Trimmed(any(each.more for each in rounds), any(each.busy for each in rounds))

    async def state(self) -> Hashable:
        """Return something that differs as soon as more has ended, died or been archived."""
        keys = self._inbox.keys
        replies = await self._broker.pipeline(
            [
                ("HMGET", keys.ledger, *_ENDINGS),
                ("XLEN", keys.dead),
                ("XLEN", keys.resolved),
                ("HGET", keys.archived, "outcomes"),
            ]
        )
        return _hashable(replies)

    async def missing(self, at_last_look: int) -> tuple[int, bool]:
        """Return how many waiting messages somebody deleted, and whether they were counted as vanished.

        They are counted when two looks, some ten seconds apart, find the same number: give the first one's
        result to the second.
        """
        keys = self._inbox.keys
        reply = await self._inbox.run(
            "reckon", (keys.ledger, keys.dead, keys.due, *keys.sources), at_last_look, _MOST_COUNTED
        )
        return max(0, int(reply[0])), reply[1] == 1

    async def _trim_lanes(self, kept: Kept) -> bool:
        # A sixth each: an address has six streams.
        _, more = await self._inbox.trim(
            kept.messages, kept.age_ms, kept.bytes // len(SOURCES), kept.archived_only
        )
        return more

    async def _trim_ended(self, kept: Kept) -> bool:
        keys = self._inbox.keys
        return await self._step(
            "trim_ended",
            (keys.ended, keys.resolved, keys.dead, keys.outcomes, keys.archived, keys.retention),
            kept.messages, kept.age_ms, kept.bytes // len(SOURCES), TRIM_STEP, int(kept.archived_only),
            kept.dead, kept.dead_age_ms,
        )  # fmt: skip

    async def _lapse(self, kept: Kept) -> bool:
        keys = self._inbox.keys
        return await self._step(
            "lapse",
            (keys.ledger, keys.dead, keys.ended, keys.outcomes, keys.unannounced),
            kept.dead_age_ms, _LAPSE_STEP,
        )  # fmt: skip

    async def _prune(self, kept: Kept) -> bool:
        if kept.outcomes is None:
            return False
        keys = self._inbox.keys
        return await self._step(
            "prune",
            (keys.outcomes, keys.retention, keys.archived, keys.ended, keys.resolved, *keys.sources),
            kept.outcomes, _PRUNE_STEP, int(kept.archived_only),
        )  # fmt: skip

    async def _step(self, name: str, keys: tuple[str, ...], *arguments: Argument) -> bool:
        reply = await self._inbox.run(name, keys, *arguments)
        return bool(reply[1] == 1)


class ChannelRetention:
    """Removes what need not be kept of one channel's log."""

    def __init__(
        self, broker: Broker, prefix: str, address: str, defaults: RetentionSettings, events: Events
    ) -> None:
        self._broker = broker
        self._keys = channel_keys(prefix, address)
        self._switch = ArchiveSwitch(broker, prefix)
        self._defaults = defaults
        self._events = events

    async def trim(self, most_steps: int = 1_000_000) -> Trimmed:
        """Remove what is beyond the policy, in at most so many steps."""
        reply = await self._broker.execute("HGETALL", self._keys.policy)
        policy = parse_policy(_texts(reply), self._keys.address, self._keys.policy, self._events)
        archiving = await self._switch.since_ms() is not None
        kept = Kept.of(*self._standard(policy), archiving)
        return await _repeat(self._trim_log, kept, most_steps)

    def _standard(self, policy: Policy) -> tuple[Policy, RetentionSettings, int]:
        """Return what goes where the policy says nothing."""
        defaults = self._defaults
        if self._keys.address != STATUS_ADDRESS:
            return policy, defaults, defaults.channel_messages
        # Figures of a moment: they are not worth filling the server while an archive is away.
        lossy = policy if policy.archive is not None else replace(policy, archive="may_lose")
        return lossy, replace(defaults, bytes=defaults.status_bytes), defaults.status_messages

    async def state(self) -> Hashable:
        """Return something that differs as soon as more has been said or archived."""
        keys = self._keys
        return _hashable(await self._broker.pipeline([("XLEN", keys.log), ("HGET", keys.archived, "log")]))

    async def missing(self, at_last_look: int) -> tuple[int, bool]:
        """Return that nothing is missing: nobody's work is in a log."""
        return 0, False

    async def _trim_log(self, kept: Kept) -> bool:
        keys = (self._keys.log, self._keys.archived)
        arguments = (kept.messages, kept.age_ms, kept.bytes, TRIM_STEP, int(kept.archived_only))
        reply = await run(self._broker, Call(load("trim_log"), keys, arguments))
        return bool(reply[1] == 1)


async def _repeat(step: Callable[[Kept], Awaitable[bool]], kept: Kept, most: int) -> Trimmed:
    for number in range(most):
        if not await step(kept):
            return Trimmed(False, number > 0)
        # Whoever shares this loop or the server gets a turn.
        await asyncio.sleep(0)
    return Trimmed(True, True)


def _hashable(replies: list[object]) -> Hashable:
    # A refusal is a state as well; what trims will name the key.
    return tuple(
        tuple(reply) if isinstance(reply, list) else str(reply) if isinstance(reply, Exception) else reply
        for reply in replies
    )


def _texts(flat: list[bytes]) -> dict[str, str]:
    items = iter(flat)
    return {name.decode(): value.decode() for name, value in zip(items, items, strict=True)}
