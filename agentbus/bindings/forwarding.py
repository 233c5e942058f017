"""What follows when an address has stored a message: copies for bindings, word to watchers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentbus.bindings.routes import Copy, inbox_of
from agentbus.bindings.table import BindingTable
from agentbus.broker.bindings import BindingStore
from agentbus.broker.carry import Carrier, Load, Origin
from agentbus.broker.connection import Broker
from agentbus.broker.live import mirror
from agentbus.errors import BrokerError, BrokerUnavailable
from agentbus.message.backoff import Backoff
from agentbus.message.copies import NO_COPIES, Arrival, Copied, Copies, RefusedCopy, copied

#: Seconds that word to watchers may hold up the sender; it is at most once.
_MIRROR_PATIENCE = 1.0
#: Copies, and bytes of copies, that go to one agent in one round trip.
_MOST_TOGETHER, _MOST_BYTES = 64, 262_144
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
        if any(plan.errands):
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
                if errand.copy.allowed:
                    plan.lines.setdefault(errand.copy.agent, []).append(errand)
                else:
                    errand.refusal = _no_consent(errand)
            if not arrival.repeated:
                plan.mirrored += [(pattern, arrival.text) for pattern in route.mirrors]
        return plan

    async def _walk(self, line: Sequence[_Errand]) -> None:
        """Make the copies of one agent in order; what is never answered ends with its deadline."""
        for errands in _portions(line):
            left = list(errands)
            backoff = Backoff()
            while left := _in_time(left):
                left = await self._carry(left)
                if left:
                    await asyncio.sleep(backoff.next_pause())

    async def _carry(self, errands: Sequence[_Errand]) -> list[_Errand]:
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

    async def _load(self, errand: _Errand) -> Load:
        arrival = errand.arrival
        now = self._table.server_ms()
        delay = arrival.delay_ms if arrival.at_ms is None else max(0, round(arrival.at_ms - now))
        made = await self._first(arrival) or errand.made
        return Load(
            Origin(arrival.address, await self._entry(arrival), f"copy:{errand.copy.agent}"),
            made.message_id,
            made.text,
            priority=arrival.priority,
            state=None if arrival.ttl_ms is None else {"expires": round(now + arrival.ttl_ms)},
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

    async def _count(self, plan: _Plan) -> None:
        counts: Counter[tuple[str, str, str]] = Counter()
        for errand in (errand for errands in plan.errands for errand in errands):
            if not errand.known:
                what = errand.refusal.reason if errand.refusal else "copied"
                counts[errand.copy.agent, errand.copy.pattern, what] += 1
        with contextlib.suppress(BrokerError):
            await self._store.count((*names, many) for names, many in counts.items())


def _no_consent(errand: _Errand) -> RefusedCopy:
    agent = errand.copy.agent
    return RefusedCopy(agent, "no_consent", f"{errand.arrival.address} allows {agent} no copies")


def _portions(line: Sequence[_Errand]) -> Iterator[list[_Errand]]:
    """Yield what goes to the broker at once: bounded, as everything that it does in one go."""
    portion: list[_Errand] = []
    size = 0
    for errand in line:
        length = len(errand.made.text)
        if portion and (len(portion) == _MOST_TOGETHER or size + length > _MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(errand)
        size += length
    if portion:
        yield portion


def _in_time(errands: Sequence[_Errand]) -> list[_Errand]:
    """Return those whose sender still waits; the others are refused."""
    now = asyncio.get_running_loop().time()
    for errand in errands:
        if errand.arrival.until <= now:
            errand.refusal = RefusedCopy(errand.copy.agent, "deadline", _OVERDUE)
    return [errand for errand in errands if errand.refusal is None]


def _told(errands: Sequence[_Errand]) -> Copies:
    if not errands:
        return NO_COPIES
    refused = tuple(errand.refusal for errand in errands if errand.refusal is not None)
    return Copies(len(errands) - len(refused), refused)
