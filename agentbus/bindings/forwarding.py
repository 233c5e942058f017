"""What follows when an address has stored a message: copies for bindings, word to watchers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentbus.bindings.routes import Copy, inbox_of
from agentbus.bindings.table import BindingTable
from agentbus.broker.bindings import BindingStore
from agentbus.broker.carry import Carrier, Origin
from agentbus.broker.connection import Broker
from agentbus.broker.live import mirror
from agentbus.errors import BrokerError, BrokerUnavailable
from agentbus.message.backoff import Backoff
from agentbus.message.copies import NO_COPIES, Arrival, Copied, Copies, RefusedCopy, copied

#: Seconds that word to watchers may hold up the sender; it is at most once.
_MIRROR_PATIENCE = 1.0
_OVERDUE = "the broker confirmed no copy before the deadline; it may exist all the same"


@dataclass(slots=True)
class _Errand:
    """One copy to be made."""

    arrival: Arrival
    copy: Copy
    made: Copied
    #: None once it was made.
    refusal: RefusedCopy | None = None
    #: It had been made before.
    known: bool = False


@dataclass(slots=True)
class _Plan:
    """Everything to be done for one batch."""

    #: For each message, in order.
    errands: list[list[_Errand]] = field(default_factory=list)
    #: The same by agent: one agent's copies are made in order, those of several at the same time.
    lines: dict[str, list[_Errand]] = field(default_factory=dict)
    #: (pattern, envelope)
    mirrored: list[tuple[str, bytes]] = field(default_factory=list)


class Forwarder:
    """Makes the copies. One per process, used by every queue of the publisher."""

    def __init__(
        self, broker: Broker, prefix: str, table: BindingTable, store: BindingStore, carrier: Carrier
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._table = table
        self._store = store
        self._carrier = carrier
        self._counting: set[asyncio.Task[None]] = set()

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
        self._counting = set()
        self._table.begin_anew()

    async def close(self) -> None:
        """Wait for what was begun."""
        if self._counting:
            await asyncio.wait(self._counting)
        await self._table.close()

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
        return Copies(0, tuple(RefusedCopy(copy.agent, "deadline", _OVERDUE) for copy in copies))

    async def forward(self, arrivals: Sequence[Arrival]) -> list[Copies]:
        """Do it, and return in order what became of the copies. What fails is told, never raised."""
        plan = self._plan(arrivals)
        await asyncio.gather(
            self._tell_watchers(plan.mirrored), *(self._walk(line) for line in plan.lines.values())
        )
        if plan.lines:
            task = asyncio.create_task(self._count(plan), name="agentbus counters of bindings")
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)
        return [_told(errands) for errands in plan.errands]

    def _plan(self, arrivals: Sequence[Arrival]) -> _Plan:
        plan = _Plan()
        for arrival in arrivals:
            errands: list[_Errand] = []
            plan.errands.append(errands)
            route = self._table.routes.route(arrival.topic)
            made = copied(arrival.text, arrival.topic) if route else None
            if made is None:
                continue
            # Nobody gets what it sent itself: a handler that answers where it listens would never end.
            wanted = [copy for copy in route.copies if copy.agent != made.sender]
            errands += [_Errand(arrival, copy, made) for copy in wanted]
            for errand in errands:
                plan.lines.setdefault(errand.copy.agent, []).append(errand)
            if not arrival.repeated:
                plan.mirrored += [(pattern, arrival.text) for pattern in route.mirrors]
        return plan

    async def _walk(self, line: Sequence[_Errand]) -> None:
        for errand in line:
            errand.refusal = await self._copy(errand)

    async def _copy(self, errand: _Errand) -> RefusedCopy | None:
        arrival, agent = errand.arrival, errand.copy.agent
        if not errand.copy.allowed:
            return RefusedCopy(agent, "no_consent", f"{arrival.address} allows {agent} no copies")
        try:
            async with asyncio.timeout_at(arrival.until):
                errand.known = await self._until_carried(errand)
        except TimeoutError:
            return RefusedCopy(agent, "deadline", _OVERDUE)
        except BrokerError as error:
            return RefusedCopy(agent, "refused", str(error))
        return None

    async def _until_carried(self, errand: _Errand) -> bool:
        """Carry a copy as soon as the broker can be reached; True when it was there already."""
        backoff = Backoff()
        while True:
            try:
                return await self._carry(errand)
            except BrokerUnavailable:
                await asyncio.sleep(backoff.next_pause())

    async def _carry(self, errand: _Errand) -> bool:
        arrival, agent = errand.arrival, errand.copy.agent
        now = self._table.server_ms()
        delay = arrival.delay_ms if arrival.at_ms is None else max(0, round(arrival.at_ms - now))
        made = await self._first(arrival) or errand.made
        carried = await self._carrier.carry(
            inbox_of(agent),
            Origin(arrival.address, await self._entry(arrival), f"copy:{agent}"),
            made.message_id,
            made.text,
            priority=arrival.priority,
            state=None if arrival.ttl_ms is None else {"expires": round(now + arrival.ttl_ms)},
            delay_ms=delay or None,
        )
        return carried.known

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

    async def _count(self, plan: _Plan) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        for errand in (errand for line in plan.lines.values() for errand in line):
            if not errand.known:
                what = errand.refusal.reason if errand.refusal else "copied"
                counts[errand.copy.agent, errand.copy.pattern, what] += 1
        with contextlib.suppress(BrokerError):
            await self._store.count((*names, many) for names, many in counts.items())


def _told(errands: Sequence[_Errand]) -> Copies:
    if not errands:
        return NO_COPIES
    refused = tuple(errand.refusal for errand in errands if errand.refusal is not None)
    return Copies(len(errands) - len(refused), refused)
