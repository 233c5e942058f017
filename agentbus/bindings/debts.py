"""Copies that are owed: their publisher died before it made them, or the broker did not answer it.

Agents that are bound and workers look for them, whoever they are owed to. Nobody is special: an address is
claimed by one of them for a while, and a copy that two make at once is made once, by its origin.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agentbus.bindings.errands import Errand
from agentbus.bindings.forwarding import Forwarder
from agentbus.broker.owed import DebtStore, Record
from agentbus.broker.wake import Claim
from agentbus.errors import BrokerError, BrokerUnavailable
from agentbus.events import Events
from agentbus.message.copies import copied
from agentbus.message.owed import Debt, parse_debt

#: How long nobody looks at an address that owes nothing, and at one that cannot be looked at, in ms. The
#: first adds to the time after which an overdue copy is made.
QUIET_MS, _SPOILT_MS = 30_000, 60_000
#: Until what nobody confirmed is tried again, in ms.
_AGAIN_MS = 5_000
#: Addresses that one call takes, and steps at one of them before the others have their turn.
_MOST_CLAIMED, _MOST_STEPS = 50, 20
#: Seconds for the copies of one step.
_PATIENCE = 30.0

#: Why a copy that is owed is not made.
_REASONS: Mapping[str, str] = {
    "unbound": "who is not bound to that topic any more",
    "no_consent": "to whom the agent that was sent the message allows none any more",
    "refused": "whose inbox takes none",
    "unreadable": "because somebody's hand changed what was noted",
}


class Debts:
    """Makes good what publishers owe. One per process."""

    def __init__(self, store: DebtStore, forwarder: Forwarder, events: Events) -> None:
        self._store = store
        self._forwarder = forwarder
        self._events = events

    async def pay(self) -> None:
        """Look at the addresses whose time has come, and make copies that are overdue there.

        Raises `BrokerError` when the broker does not answer; what was not done is done by whoever looks next.
        """
        while claims := await self._store.claim(_MOST_CLAIMED):
            for claim in claims:
                await self._store.settle(claim, await self._look(claim))

    async def announce(self, addresses: Sequence[str]) -> None:
        """Have those addresses looked at that owe copies, where somebody's hand took them off the list."""
        for address in await self._store.unannounced(addresses):
            await self._store.announce(address, 0)

    async def _look(self, claim: Claim) -> int:
        """Make what is overdue at one address; returns when to look again (ms)."""
        try:
            return await self._pay_at(claim.address)
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            # One address with a key of the wrong type must not keep the others waiting.
            self._events.emit("owed_unreadable", claim.address, str(error))
            return claim.score + _SPOILT_MS

    async def _pay_at(self, address: str) -> int:
        for _ in range(_MOST_STEPS):
            overdue = await self._store.overdue(address)
            if not overdue.records:
                quiet = overdue.server_ms + QUIET_MS
                return quiet if overdue.next_ms is None else min(quiet, overdue.next_ms)
            if not await self._settle(address, overdue.records):
                return overdue.server_ms + _AGAIN_MS
        return overdue.server_ms

    async def _settle(self, address: str, records: Sequence[Record]) -> bool:
        """Make one portion and strike off what is done; returns whether nothing of it is owed any more."""
        until = asyncio.get_running_loop().time() + _PATIENCE
        books, debts = _Books(), list[Debt]()
        for message_id, text in records:
            debt = parse_debt(address, message_id, text, until)
            if debt is None:
                books.enter_spoilt(message_id)
            else:
                debts.append(debt)
        for debt, errands in zip(debts, await self._forwarder.make_good(debts), strict=True):
            books.enter(debt, errands)
        await self._store.strike(address, books.struck)
        self._tell(address, books)
        return not books.open

    def _tell(self, address: str, books: _Books) -> None:
        for agent, many in (+books.made).items():
            told = f"copies that their publisher had not made: {many} for {agent}"
            self._events.emit("copy_made_good", address, told, agent=agent, count=many)
        for (agent, reason), many in books.given_up.items():
            told = f"owed copies that are not made: {many} for {agent or 'somebody'}, {_REASONS[reason]}"
            self._events.emit("copy_given_up", address, told, agent=agent, reason=reason, count=many)


class _Books:
    """What became of the copies of one portion."""

    def __init__(self) -> None:
        #: Agent to the number of copies that did not exist yet.
        self.made: Counter[str] = Counter()
        #: (agent, reason) to the number of copies.
        self.given_up: Counter[tuple[str, str]] = Counter()
        #: What is owed no more: (message id, agents; none of them means all).
        self.struck: list[tuple[str, Sequence[str]]] = []
        #: Whether anything is still owed.
        self.open = False

    def enter_spoilt(self, message_id: str) -> None:
        """Enter a message of which nobody knows what is owed."""
        self.given_up["", "unreadable"] += 1
        self.struck.append((message_id, ()))

    def enter(self, debt: Debt, errands: Iterable[Errand]) -> None:
        """Enter one message."""
        done = {errand.copy.agent: errand for errand in errands}
        original = copied(debt.arrival.text, debt.arrival.topic)
        for agent in debt.agents:
            # What is direct, and what one has sent oneself, is never copied.
            if agent in done:
                self._enter(done[agent])
            elif original is not None and agent != original.sender:
                self.given_up[agent, "unbound"] += 1
        settled = [agent for agent in debt.agents if agent not in done or not done[agent].open]
        if len(settled) < len(debt.agents):
            self.open = True
        if settled:
            left = len(debt.agents) - len(settled)
            self.struck.append((debt.arrival.message_id, settled if left else ()))

    def _enter(self, errand: Errand) -> None:
        if errand.refusal is None:
            self.made[errand.copy.agent] += not errand.known
        elif not errand.open:
            self.given_up[errand.copy.agent, errand.refusal.reason] += 1
