"""From one address to another: the one way in which a message that is stored is stored somewhere else.

There is no transaction over two addresses. What is carried is added at the target under a key made of its
origin, and only then settled at the origin: at least once, and once within the window of keys.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import addresses
from agentbus.broker.wake import Announcer
from agentbus.errors import BrokerError, BrokerOutOfMemory
from agentbus.message.policy import PRIORITY_INDEX, Priority

#: What somebody typed as an idempotency key begins with the name of an agent, which has no colon.
_KEY = "origin:{}/{}/{}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something comes from, and what for: each is carried to a target once."""

    address: str
    entry: str
    #: Tells apart what goes from one entry to one target for different reasons: ``retry``, ``copy``, ….
    purpose: str

    @property
    def key(self) -> str:
        """The idempotency key at the target."""
        return _KEY.format(self.address, self.entry, self.purpose)


@dataclass(frozen=True, slots=True)
class Death:
    """Why what is carried arrives as a dead letter."""

    reason: str
    detail: str
    owner: str
    attempts: int
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """One message to be carried; see `Carrier.carry`."""

    origin: Origin
    message_id: str
    message: bytes
    priority: Priority = "normal"
    state: Mapping[str, Any] | None = None
    delay_ms: int | None = None
    death: Death | None = None


class Carried(NamedTuple):
    """Where it is now."""

    #: ``<lane> <entry id>``, ``due <id>`` or ``dead <letter>``.
    place: str
    #: It had been carried there before.
    known: bool
    #: Server time in ms at which it comes due; None when it waits already or is dead.
    due_ms: int | None


class Carrier:
    """Carries messages into inboxes."""

    def __init__(self, broker: Broker, prefix: str, window_ms: int, announcer: Announcer) -> None:
        self._broker = broker
        self._prefix = prefix
        self._window_ms = window_ms
        self._announcer = announcer

    async def carry(
        self,
        address: str,
        origin: Origin,
        message_id: str,
        message: bytes,
        *,
        priority: Priority = "normal",
        state: Mapping[str, Any] | None = None,
        delay_ms: int | None = None,
        death: Death | None = None,
    ) -> Carried:
        """Store ``message`` (the envelope as JSON text) in the inbox ``address``, once for its origin.

        It waits in the lane of ``priority``, or comes due after ``delay_ms``, or is a dead letter. ``state``
        is what scripts keep beside a message (attempt, crashes, first_failure, …). Never refused because the
        address or the server is full. Raises `BrokerError`; then carry it again.
        """
        load = Load(origin, message_id, message, priority, state, delay_ms, death)
        inbox = await self._noted(address)
        reply = await inbox.run("carry", _keys(inbox), *self._arguments(inbox, load))
        return await self._answer(address, reply)

    async def carry_all(self, address: str, loads: Sequence[Load]) -> list[Carried | BrokerError]:
        """Carry several messages to one inbox in order and in one round trip; see `carry`.

        One that was refused has its error in the list. Raises `BrokerError` when none was answered; then
        carry all of them again.
        """
        inbox = await self._noted(address)
        steps = [self._arguments(inbox, load) for load in loads]
        replies = await inbox.run_many("carry", _keys(inbox), steps)
        return [
            reply if isinstance(reply, BrokerError) else await self._answer(address, reply)
            for reply in replies
        ]

    async def _noted(self, address: str) -> Inbox:
        # A full server refuses this; whoever serves the address repeats it each minute.
        with contextlib.suppress(BrokerOutOfMemory):
            await self._broker.execute("SADD", addresses(self._prefix), address)
        return Inbox(self._broker, self._prefix, address)

    def _arguments(self, inbox: Inbox, load: Load) -> tuple[Argument, ...]:
        return (
            load.origin.key, self._window_ms, PRIORITY_INDEX[load.priority],
            "dead" if load.death is not None else "lane" if load.delay_ms is None else "due",
            load.delay_ms or 0, load.message_id, inbox.keys.nudge, load.message,
            json.dumps(load.state) if load.state else "", *_letter(load.origin, load.death),
        )  # fmt: skip

    async def _answer(self, address: str, reply: Sequence[Any]) -> Carried:
        due_ms = int(reply[2]) if reply[2] else None
        if due_ms is not None:
            await self._announcer.announce(address, due_ms)
        return Carried(reply[1].decode(), reply[0] == b"known", due_ms)


def _keys(inbox: Inbox) -> tuple[str, ...]:
    keys = inbox.keys
    return (
        keys.ledger, keys.lanes, keys.due, keys.delayed, keys.dead, keys.keys_even, keys.keys_odd,
        keys.resolved, keys.policy, keys.outcomes, *keys.priority_lanes,
    )  # fmt: skip


def _letter(origin: Origin, death: Death | None) -> tuple[Argument, ...]:
    if death is None:
        return ()
    most = "" if death.max_retries is None else death.max_retries
    return (death.reason, death.detail, origin.entry, death.owner, death.attempts, most)
