"""Copies that are to be made: of which messages, for whom, in which order, and what became of them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

from agentbus.bindings.routes import Copy, Route
from agentbus.message.copies import NO_COPIES, Arrival, Copied, Copies, RefusedCopy, copied

#: Copies, and bytes of copies, that go to one agent in one round trip.
_MOST_TOGETHER, _MOST_BYTES = 64, 262_144
_OVERDUE = "the broker confirmed no copy before the deadline; where none exists it is made later"


@dataclass(slots=True)
class Errand:
    """One copy to be made."""

    arrival: Arrival
    copy: Copy
    made: Copied
    #: None once it was made.
    refusal: RefusedCopy | None = None
    #: It had been made before.
    known: bool = False

    @property
    def what(self) -> str:
        """What became of it: ``copied``, or why it was refused."""
        return "copied" if self.refusal is None else self.refusal.reason

    @property
    def open(self) -> bool:
        """Whether nobody knows whether it was made: it stays owed."""
        return self.refusal is not None and self.refusal.reason == "deadline"

    def overdue(self) -> None:
        """Give up for now."""
        self.refusal = overdue(self.copy.agent)


@dataclass(slots=True)
class Plan:
    """Everything to be done for one batch."""

    #: For each message, in order.
    errands: list[list[Errand]] = field(default_factory=list)
    #: The same by agent: one agent's copies are made in order, those of several at the same time.
    lines: dict[str, list[Errand]] = field(default_factory=dict)
    #: (pattern, envelope)
    mirrored: list[tuple[str, bytes]] = field(default_factory=list)
    #: Of which messages copies may have been noted as owed: address to (message ids, errands).
    noted: list[tuple[str, set[str], list[Errand]]] = field(default_factory=list)

    def add(self, arrival: Arrival, route: Route, agents: Container[str] | None = None) -> None:
        """Plan what is to be done for one message; ``agents``: only for these."""
        errands: list[Errand] = []
        self.errands.append(errands)
        if route.owed:
            self.noted.append((arrival.address, {arrival.message_id}, errands))
        made = copied(arrival.text, arrival.topic) if route else None
        if made is None:
            return
        for copy in route.copies:
            # Nobody gets what it sent itself: a handler that answers where it listens would never end.
            if copy.agent != made.sender and (agents is None or copy.agent in agents):
                errands.append(Errand(arrival, copy, made))
        for errand in errands:
            if errand.copy.allowed:
                self.lines.setdefault(errand.copy.agent, []).append(errand)
            else:
                errand.refusal = _no_consent(errand)
        if not arrival.repeated and agents is None:
            self.mirrored += [(pattern, arrival.text) for pattern in route.mirrors]

    def struck(self) -> dict[str, list[tuple[str, list[str]]]]:
        """Return, by address, what is owed no more: (message id, agents; none of them means all)."""
        found: dict[str, list[tuple[str, list[str]]]] = {}
        for address, message_ids, errands in self.noted:
            done = [errand.copy.agent for errand in errands if not errand.open]
            if done or not errands:
                agents = done if len(done) < len(errands) else []
                # A key that was used again: what is owed was noted with the message that was stored first.
                names = message_ids | {errand.made.message_id for errand in errands}
                found.setdefault(address, []).extend((name, agents) for name in sorted(names))
        return found


def portions(line: Sequence[Errand]) -> Iterator[list[Errand]]:
    """Yield what goes to the broker at once: bounded, as everything that it does in one go."""
    portion: list[Errand] = []
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


def in_time(errands: Sequence[Errand], now: float) -> list[Errand]:
    """Return those whose sender still waits at this loop time; the others are refused."""
    for errand in errands:
        if errand.arrival.until <= now:
            errand.overdue()
    return [errand for errand in errands if errand.refusal is None]


def told(errands: Sequence[Errand]) -> Copies:
    """Return what the sender of a message is told of its copies."""
    if not errands:
        return NO_COPIES
    refused = tuple(errand.refusal for errand in errands if errand.refusal is not None)
    return Copies(len(errands) - len(refused), refused)


def overdue(agent: str) -> RefusedCopy:
    """Return what a sender is told of a copy that nobody confirmed in time."""
    return RefusedCopy(agent, "deadline", _OVERDUE)


def _no_consent(errand: Errand) -> RefusedCopy:
    agent = errand.copy.agent
    return RefusedCopy(agent, "no_consent", f"{errand.arrival.address} allows {agent} no copies")
