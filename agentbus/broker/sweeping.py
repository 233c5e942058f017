"""Many inboxes in one round trip: what the workers' walks need to know of each, and small steps at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.answers import Promoted, promoted
from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.scripts import Call, run_all
from agentbus.broker.wake import whole
from agentbus.errors import BrokerError, BrokerUnavailable


@dataclass(frozen=True, slots=True)
class DueLook:
    """What waits for its time in one inbox."""

    inbox: Inbox
    #: Server time in ms of the earliest; None when there is none.
    due_ms: int | None
    #: Bodies that the index does not point at, at least.
    orphans: int


Commands = list[tuple[Argument, ...]]


class Walker:
    """Looks at inboxes in batches. An inbox whose keys are of another type is left out of the answers, and
    its error kept in `refusals`: one spoilt address must not keep all others from being looked at."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: Address to what the broker said of it, since the last `take_refusals`.
        self._refusals: dict[str, BrokerError] = {}

    def take_refusals(self) -> Mapping[str, BrokerError]:
        """Return the addresses that could not be looked at, and why; forgets them."""
        refusals, self._refusals = self._refusals, {}
        return refusals

    async def beats(self, inboxes: Sequence[Inbox]) -> list[tuple[Inbox, dict[str, str]]]:
        """Return the beats of each inbox that somebody serves: consumer to beat."""
        found = await self._ask(inboxes, lambda inbox: [("HGETALL", inbox.keys.alive)])
        return [(inbox, _texts(reply)) for inbox, (reply,) in found if reply]

    async def due(self, inboxes: Sequence[Inbox]) -> list[DueLook]:
        """Return what waits for its time in each inbox that has anything of the kind."""
        found = await self._ask(
            inboxes,
            lambda inbox: [
                ("ZRANGE", inbox.keys.due, 0, 0, "WITHSCORES"),
                ("ZCARD", inbox.keys.due),
                ("HLEN", inbox.keys.delayed),
            ],
        )
        # A body has two fields, itself and its state.
        return [
            DueLook(inbox, whole(first[1]) if first else None, max(0, (fields + 1) // 2 - count))
            for inbox, (first, count, fields) in found
            if count or fields
        ]

    async def strangers(self, inboxes: Sequence[Inbox]) -> list[tuple[Inbox, list[str]]]:
        """Return the consumers that are known to a group and are not alive, where there are any."""
        found = await self._run_all(inboxes, [inbox.strangers_call() for inbox in inboxes])
        return [(inbox, [name.decode() for name in reply]) for inbox, reply in found if reply]

    async def promote(
        self, inboxes: Sequence[Inbox], window_ms: int, most: int
    ) -> list[tuple[Inbox, Promoted]]:
        """Move what came due in each inbox, up to ``most`` messages; see `Inbox.promote`."""
        calls = [inbox.promote_call(window_ms, most) for inbox in inboxes]
        return [(inbox, promoted(reply)) for inbox, reply in await self._run_all(inboxes, calls)]

    async def sweep(self, inboxes: Sequence[Inbox]) -> None:
        """List lanes that hand-made entries left out of the index; see `Inbox.sweep`."""
        await self._run_all(inboxes, [inbox.sweep_call() for inbox in inboxes])

    async def _ask(
        self, inboxes: Sequence[Inbox], commands: Callable[[Inbox], Commands]
    ) -> list[tuple[Inbox, list[Any]]]:
        asked = [(inbox, commands(inbox)) for inbox in inboxes]
        replies = iter(await self._broker.pipeline([command for _, some in asked for command in some]))
        found = []
        for inbox, some in asked:
            answers = [next(replies) for _ in some]
            if not self._refused(inbox, answers):
                found.append((inbox, answers))
        return found

    async def _run_all(self, inboxes: Sequence[Inbox], calls: Sequence[Call]) -> list[tuple[Inbox, Any]]:
        replies = await run_all(self._broker, calls)
        return [
            (inbox, reply)
            for inbox, reply in zip(inboxes, replies, strict=True)
            if not self._refused(inbox, [reply])
        ]

    def _refused(self, inbox: Inbox, replies: Sequence[Any]) -> bool:
        for reply in replies:
            if isinstance(reply, BrokerUnavailable):
                # Not this address but the server: it loads its data, or runs somebody's long script.
                raise reply
            if isinstance(reply, BrokerError):
                self._refusals[inbox.address] = reply
                return True
        return False


def _texts(flat: Sequence[bytes]) -> dict[str, str]:
    items = iter(flat)
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in zip(items, items, strict=True)
    }
