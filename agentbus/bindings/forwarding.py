"""What follows when an address has stored a message: copies for bindings, word to watchers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from itertools import chain

from agentbus.bindings.errands import Errand, Plan, in_time, overdue, portions, told
from agentbus.bindings.routes import inbox_of
from agentbus.bindings.table import BindingTable
from agentbus.broker.bindings import BindingStore
from agentbus.broker.carry import Carrier, Load, Origin
from agentbus.broker.connection import Broker
from agentbus.broker.live import mirror
from agentbus.broker.owed import DebtStore
from agentbus.errors import BrokerError, BrokerUnavailable
from agentbus.message import owed
from agentbus.message.backoff import Backoff
from agentbus.message.copies import Arrival, Copied, Copies, RefusedCopy, copied
from agentbus.message.owed import Debt

#: Seconds that word to watchers may hold up the sender; it is at most once.
_MIRROR_PATIENCE = 1.0
#: Seconds after which an address that owes copies is named again: the set may have been lost with a server.
_NAMED_AGAIN = 60.0


class Forwarder:
    """Makes the copies. One per process, used by every queue of the publisher."""

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        table: BindingTable,
        store: BindingStore,
        debts: DebtStore,
        carrier: Carrier,
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._table = table
        self._store = store
        self._debts = debts
        self._carrier = carrier
        self._begin()

    def _begin(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()
        #: When each address that owes copies was named last, in loop time.
        self._named: dict[str, float] = {}

    # --- before a batch is sent ---

    @property
    def fresh(self) -> bool:
        """Whether a batch may be sent without asking."""
        return self._table.fresh

    async def ensure_fresh(self) -> None:
        """Ask the broker for the table; raises `BrokerError`, and then nothing may be sent."""
        await self._table.ensure()

    def begin_anew(self) -> None:
        """Forget what belongs to another process or event loop."""
        self._begin()
        self._table.begin_anew()

    async def close(self) -> None:
        """Wait for what was begun."""
        if self._closing:
            await asyncio.wait(self._closing)
        await self._table.close()

    def owed(self, topics: Set[str]) -> dict[str, Sequence[str]]:
        """Return, by topic, the agents to which copies are owed as soon as a message of it is stored."""
        routes = self._table.routes
        return {topic: agents for topic in topics if (agents := routes.route(topic).owed)}

    async def expect(self, address: str, again: bool) -> None:
        """Say that copies may be owed at an address, before the first of them is; raises `BrokerError`."""
        now = asyncio.get_running_loop().time()
        if again or now - self._named.get(address, -_NAMED_AGAIN) >= _NAMED_AGAIN:
            await self._debts.announce(address, round(self._table.server_ms()) + owed.GRACE_MS)
            self._named[address] = now

    # --- after it was stored ---

    @property
    def quiet(self) -> bool:
        """Whether nothing is copied and nobody watches."""
        return self._table.routes.empty

    def concerns(self, topic: str) -> bool:
        """Whether anything is to be done for messages of a topic."""
        return bool(self._table.routes.route(topic))

    def overdue(self, topic: str) -> Copies:
        """Return what a caller is told whose deadline passes before the copies are made."""
        copies = self._table.routes.route(topic).copies
        return Copies(0, tuple(overdue(copy.agent) for copy in copies))

    async def forward(self, arrivals: Sequence[Arrival]) -> list[Copies]:
        """Do it, and return in order what became of the copies. What fails is told, never raised."""
        plan = Plan()
        for arrival in arrivals:
            plan.add(arrival, self._table.routes.route(arrival.topic))
        await asyncio.gather(self._tell_watchers(plan.mirrored), self._carry_all(plan))
        if plan.noted or any(plan.errands):
            task = asyncio.create_task(self._close(plan), name="agentbus books of bindings")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return [told(errands) for errands in plan.errands]

    async def _close(self, plan: Plan) -> None:
        """Strike off what is owed no more, and count."""
        await asyncio.gather(self._strike(plan), self._count(chain.from_iterable(plan.errands)))

    async def make_good(self, debts: Sequence[Debt]) -> list[list[Errand]]:
        """Make copies that their publishers were to make and did not; returns what became of those of each.

        Agents that are bound no more, or that sent the message themselves, have none. What is made is
        counted. Raises `BrokerError` when the broker does not tell the table.
        """
        await self._table.ensure()
        plan = Plan()
        for debt in debts:
            plan.add(debt.arrival, self._table.routes.route(debt.arrival.topic), debt.agents)
        await self._carry_all(plan)
        # What nobody confirmed is tried again: once is enough to say so.
        await self._count(errand for errand in chain.from_iterable(plan.errands) if not errand.open)
        return plan.errands

    async def _carry_all(self, plan: Plan) -> None:
        await asyncio.gather(*(self._walk(line) for line in plan.lines.values()))

    async def _walk(self, line: Sequence[Errand]) -> None:
        """Make the copies of one agent in order; what is never answered ends with its deadline."""
        for errands in portions(line):
            left = list(errands)
            backoff = Backoff()
            while left := in_time(left, asyncio.get_running_loop().time()):
                left = await self._carry(left)
                if left:
                    await asyncio.sleep(backoff.next_pause())

    async def _carry(self, errands: Sequence[Errand]) -> list[Errand]:
        """Carry copies to one agent; returns those that are to be carried again."""
        address = inbox_of(errands[0].copy.agent)
        try:
            async with asyncio.timeout_at(min(errand.arrival.until for errand in errands)):
                loads = [await self._load(errand) for errand in errands]
                results = await self._carrier.carry_all(address, loads)
        except (BrokerUnavailable, TimeoutError):
            return list(errands)
        except BrokerError as error:
            results = [error for _ in errands]
        again = []
        for errand, result in zip(errands, results, strict=True):
            if isinstance(result, BrokerUnavailable):
                again.append(errand)
            elif isinstance(result, BrokerError):
                errand.refusal = RefusedCopy(errand.copy.agent, "refused", str(result))
            else:
                errand.known = result.known
        return again

    async def _load(self, errand: Errand) -> Load:
        arrival = errand.arrival
        now = self._table.server_ms()
        delay = arrival.delay_ms if arrival.at_ms is None else max(0, round(arrival.at_ms - now))
        since = now if arrival.stored_ms is None else arrival.stored_ms
        made = errand.made = await self._first(arrival) or errand.made
        return Load(
            Origin(arrival.address, await self._entry(arrival), f"copy:{errand.copy.agent}"),
            made.message_id,
            made.text,
            priority=arrival.priority,
            state=None if arrival.ttl_ms is None else {"expires": round(since + arrival.ttl_ms)},
            delay_ms=delay or None,
        )

    async def _first(self, arrival: Arrival) -> Copied | None:
        """Return a copy of what was stored when the key was used first, while it is still there."""
        if not arrival.repeated or arrival.place is None:
            return None
        text = await self._store.text_at(arrival.address, arrival.place)
        return None if text is None else copied(text, arrival.topic)

    async def _entry(self, arrival: Arrival) -> str:
        """Return what is the same whenever this message is published again, and no other message has."""
        if arrival.key is None:
            # Nobody can publish it again; its id is known also when the answer with its entry was lost.
            return arrival.message_id
        if arrival.delay_ms is not None or arrival.at_ms is not None:
            # It has no entry yet, and will have another one later.
            return f"key:{arrival.key}"
        place = arrival.place or await self._store.place_of(arrival.address, arrival.key)
        return place or arrival.message_id

    async def _tell_watchers(self, mirrored: Sequence[tuple[str, bytes]]) -> None:
        if mirrored:
            with contextlib.suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(_MIRROR_PATIENCE):
                    await mirror(self._broker, self._prefix, mirrored)

    async def _strike(self, plan: Plan) -> None:
        """Strike off what is owed no more. Where that fails, who makes it good finds the copies made."""
        for address, items in plan.struck().items():
            with contextlib.suppress(BrokerError):
                await self._debts.strike(address, items)

    async def _count(self, errands: Iterable[Errand]) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        for errand in errands:
            if not errand.known:
                counts[errand.copy.agent, errand.copy.pattern, errand.what] += 1
        with contextlib.suppress(BrokerError):
            await self._store.count((*names, many) for names, many in counts.items())
