"""What a served agent does for bindings: makes its own hold, and says who may copy what it gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from agentbus.bindings.debts import Debts
from agentbus.bindings.routes import ANYBODY, inbox_of
from agentbus.bindings.table import HOLDS_AFTER, BindingTable
from agentbus.broker.bindings import BindingStore
from agentbus.errors import BrokerError, BrokerOutOfMemory, BrokerUnavailable, InvalidValue
from agentbus.message.backoff import Backoff
from agentbus.message.topics import check_name

Value = TypeVar("Value")

#: Seconds between looks whether the broker has lost what was declared, and whether copies are owed.
_LOOK_AGAIN = 10.0


class Declared(Protocol):
    """What an agent declares."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Everything that is to hold."""

    def attach(self, registrar: BindingCompanion) -> None:
        """Tell this one of every change from now on."""

    def detach(self, registrar: BindingCompanion) -> None:
        """And no more."""

    async def settled(self) -> None:
        """Wait until what was begun holds."""


class BindingCompanion:
    """Stands beside one served agent."""

    def __init__(
        self,
        agent: str,
        inboxes: Sequence[str],
        copies_to: Sequence[str] | None,
        declared: Declared,
        store: BindingStore,
        table: BindingTable,
        debts: Debts,
    ) -> None:
        self._agent = agent
        self._inboxes = inboxes
        self._copies_to = None if copies_to is None else checked_consent(copies_to)
        self._declared = declared
        self._store = store
        self._table = table
        self._debts = debts
        self._served_since: bytes | None = None

    async def begin(self) -> None:
        """Register what is declared; returns when it holds everywhere."""
        self._declared.attach(self)
        try:
            if self._declares:
                self._served_since = await _patiently(lambda: self._store.served_since(inbox_of(self._agent)))
                await self._declare()
        except BaseException:
            self._declared.detach(self)
            raise

    async def run(self) -> None:
        """Register everything again when the broker has lost its data, and make copies that publishers owe.

        Changes come by themselves.
        """
        while True:
            if self._declared.patterns:
                with contextlib.suppress(BrokerError):
                    await self._debts.pay()
            await asyncio.sleep(_LOOK_AGAIN)
            if self._declares:
                with contextlib.suppress(BrokerError):
                    await self._look()

    @property
    def _declares(self) -> bool:
        # Who only pulls from an inbox says nothing about copies, and must not withdraw what its agent said.
        return bool(self._declared.patterns) or self._copies_to is not None

    async def _look(self) -> None:
        since = await self._store.served_since(inbox_of(self._agent))
        # Not by what is missing: a person may have removed that.
        if since is not None and since != self._served_since:
            self._table.outdate()
            await self._declare()
            self._served_since = since

    async def _declare(self) -> None:
        """Register what is declared; returns when it holds everywhere."""
        await _patiently(self._table.ensure)
        names = self._copies_to
        changes = [await self._consent(inbox, names) for inbox in self._inboxes if names is not None]
        changes += [await self._register(pattern) for pattern in self._declared.patterns]
        if any(changes):
            await self._table.hold()

    async def end(self) -> None:
        """Stop listening to changes; bindings stay."""
        self._declared.detach(self)
        await self._declared.settled()

    # --- changes ---

    async def bind(self, pattern: str) -> None:
        """Return when every publisher knows the binding."""
        await _patiently(lambda: self._store.bind(self._agent, pattern))
        await self._table.hold()

    async def unbind(self, pattern: str) -> None:
        """Return when no publisher knows the binding."""
        await _patiently(lambda: self._store.unbind(self._agent, pattern))
        await self._table.hold()

    async def _register(self, pattern: str) -> bool:
        """Store a binding; False when it was stored so long ago that every publisher knows it."""
        new = await _patiently(lambda: self._store.bind(self._agent, pattern))
        return new or self._table.age_ms(self._agent, pattern) <= HOLDS_AFTER * 1000

    async def _consent(self, inbox: str, names: Sequence[str]) -> bool:
        """Store the consent for one inbox; False when it is stored like that."""
        if self._table.consent(inbox, self._agent) == frozenset(names):
            return False
        await _patiently(lambda: self._store.consent(inbox, self._agent, names))
        return True


def checked_consent(copies_to: Sequence[str]) -> tuple[str, ...]:
    """Return a list of those who may have copies after checking it."""
    if isinstance(copies_to, str):
        raise InvalidValue("copies_to", f"must be a list of names, not the text {copies_to!r}")
    return tuple(name if name == ANYBODY else check_name(name, "copies_to") for name in copies_to)


async def _patiently(step: Callable[[], Awaitable[Value]]) -> Value:
    """Do a step as soon as the broker takes it."""
    backoff = Backoff()
    while True:
        try:
            return await step()
        except (BrokerUnavailable, BrokerOutOfMemory):
            await asyncio.sleep(backoff.next_pause())
