"""Which addresses need a look, and when: ``agentbus:wake`` for due messages, ``agentbus:ticking`` for ticks,
``agentbus:owing`` for owed copies.

The sorted set saves workers from walking over all addresses; it guards nothing. An entry that is missing (a
server that was emptied, an announcement that failed) is put back by a slow sweep, and one too many costs a
look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agentbus.broker.connection import Broker
from agentbus.broker.keys import wake
from agentbus.broker.scripts import Call, load, run, run_all
from agentbus.errors import BrokerError
from agentbus.events import Events

#: A worker that dies delays what it had claimed by at most this.
CLAIM_MS = 2_000
#: Seconds that an announcement may take: it must not hold up who waits for the message behind it.
_PATIENCE = 1.0


class Claim(NamedTuple):
    """One address that a worker has to look at; nobody else will before the claim ends."""

    address: str
    #: The score that says that the claim still stands. It is the time in ms at which it ends.
    score: int
    #: The time in ms at which the look was due.
    due_ms: int


@dataclass(frozen=True, slots=True)
class Claims:
    """What one call of `Wake.claim` found."""

    claims: tuple[Claim, ...]
    server_ms: int
    #: The earliest time in ms of any other look; None when there is none.
    next_ms: int | None

    @property
    def pause(self) -> float:
        """Seconds until the next look; infinite when none is known."""
        if self.next_ms is None:
            return float("inf")
        return max(0.0, (self.next_ms - self.server_ms) / 1000)


class Wake:
    """One such sorted set. The key is `keys.wake`, `keys.ticking` or `keys.owing` of a prefix."""

    def __init__(self, broker: Broker, key: str) -> None:
        self._broker = broker
        self._key = key

    async def announce(self, address: str, due_ms: int) -> None:
        """Say when an address needs a look, by the server's clock; the earliest announced time counts."""
        await run(self._broker, self._announcement(address, due_ms))

    async def announce_all(self, looks: Iterable[tuple[str, int]]) -> None:
        """Announce many (address, server time in ms) in one round trip."""
        calls = [self._announcement(address, due_ms) for address, due_ms in looks]
        for reply in await run_all(self._broker, calls) if calls else ():
            if isinstance(reply, Exception):
                raise reply

    def _announcement(self, address: str, due_ms: int) -> Call:
        return Call(load("wake"), (self._key,), (address, due_ms))

    async def claim(self, most: int, claim_ms: int = CLAIM_MS) -> Claims:
        """Take up to ``most`` addresses whose time has come; whoever takes one has to `settle` it."""
        reply = await run(self._broker, Call(load("claim_wake"), (self._key,), (most, claim_ms)))
        items = iter(reply[2:])
        claims = tuple(
            Claim(address.decode(errors="replace"), int(score), whole(due))
            for address, due, score in zip(items, items, items, strict=True)
        )
        return Claims(claims, int(reply[0]), whole(reply[1]) if reply[1] else None)

    async def settle(self, claim: Claim, next_ms: int | None) -> bool:
        """Say that an address was looked at and when to look again; None: it has nothing to come.

        Returns False when something was announced meanwhile; then it will be looked at again in any case.
        """
        return bool(await run(self._broker, self._settlement(claim, next_ms)) == 1)

    async def settle_all(self, looks: Iterable[tuple[Claim, int | None]]) -> None:
        """Settle many claims in one round trip."""
        calls = [self._settlement(claim, next_ms) for claim, next_ms in looks]
        for reply in await run_all(self._broker, calls) if calls else ():
            if isinstance(reply, Exception):
                raise reply

    def _settlement(self, claim: Claim, next_ms: int | None) -> Call:
        arguments = (claim.address, claim.score, "" if next_ms is None else next_ms)
        return Call(load("settle_wake"), (self._key,), arguments)

    async def scores(self, addresses: Sequence[str]) -> list[int | None]:
        """Return the noted time of the next look, in ms, for each address; None for one that has none."""
        reply = await self._broker.execute("ZMSCORE", self._key, *addresses)
        return [None if score is None else whole(score) for score in reply]

    async def withdraw(self, address: str) -> None:
        """Take off an address that is none: somebody's hand put it there."""
        await self._broker.execute("ZREM", self._key, address)


class Announcer:
    """Announces due messages on behalf of whoever stored them, who is never failed by it.

    An announcement saves time and guards nothing: one that was lost is made good by the workers' slow sweep,
    and the subscribers of an address have timers of their own.
    """

    def __init__(self, broker: Broker, prefix: str, events: Events) -> None:
        self._wake = Wake(broker, wake(prefix))
        self._events = events

    async def announce(self, address: str, due_ms: int) -> None:
        """Announce, see `Wake.announce`; one that fails becomes the event ``unannounced``."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._wake.announce(address, due_ms)
        except (BrokerError, TimeoutError) as error:
            self._events.emit(
                "unannounced", address, f"the workers were not told when something comes due here: {error!r}"
            )


def whole(score: bytes) -> int:
    """Return a score in ms; one that somebody wrote by hand may be infinite or have a fraction."""
    number = float(score)
    return int(max(min(number, 2.0**53), -(2.0**53)))
