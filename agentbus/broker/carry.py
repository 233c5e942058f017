"""From one address to another: the one way in which a message that is stored is stored somewhere else.

There is no transaction over two addresses. What is carried is added at the target under a key made of its
origin, and only then settled at the origin: at least once, and once within the window of keys.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import addresses
from agentbus.broker.wake import Announcer
from agentbus.errors import BrokerOutOfMemory
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
        # A full server refuses this; whoever serves the address repeats it each minute.
        with contextlib.suppress(BrokerOutOfMemory):
            await self._broker.execute("SADD", addresses(self._prefix), address)
        inbox = Inbox(self._broker, self._prefix, address)
        keys = inbox.keys
        reply = await inbox.run(
            "carry",
            (
                keys.ledger, keys.lanes, keys.due, keys.delayed, keys.dead, keys.keys_even, keys.keys_odd,
                keys.resolved, keys.policy, keys.outcomes, *keys.priority_lanes,
            ),
            origin.key, self._window_ms, PRIORITY_INDEX[priority],
            "dead" if death is not None else "lane" if delay_ms is None else "due",
            delay_ms or 0, message_id, keys.nudge, message, json.dumps(state) if state else "",
            *_letter(origin, death),
        )  # fmt: skip
        due_ms = int(reply[2]) if reply[2] else None
        if due_ms is not None:
            await self._announcer.announce(address, due_ms)
        return Carried(reply[1].decode(), reply[0] == b"known", due_ms)


def _letter(origin: Origin, death: Death | None) -> tuple[Argument, ...]:
    if death is None:
        return ()
    most = "" if death.max_retries is None else death.max_retries
    return (death.reason, death.detail, origin.entry, death.owner, death.attempts, most)
