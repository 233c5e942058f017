"""Where the messages of a topic go besides their own address: the table, compiled. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentbus.broker.bindings import Field, RawTable
from agentbus.errors import InvalidValue
from agentbus.message.patterns import Pattern, parse_pattern
from agentbus.message.topics import AGENT, check_name, is_inbox

#: Topics whose destinations are remembered: agents have few, and those who make them up have no end.
_MOST_TOPICS = 4096
#: In a list of those who may have copies: everybody.
ANYBODY = "*"


@dataclass(frozen=True, slots=True)
class Copy:
    """One agent that wants a copy."""

    agent: str
    #: The binding that says so; of several the first by name.
    pattern: str
    #: Whether the agent it is sent to, if any, allows it.
    allowed: bool


@dataclass(frozen=True, slots=True)
class Route:
    """What else happens to the messages of one topic."""

    copies: tuple[Copy, ...]
    #: Patterns that are watched and under which the topic falls.
    mirrors: tuple[str, ...]
    #: The agents that may have a copy.
    owed: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "owed", tuple(copy.agent for copy in self.copies if copy.allowed))

    def __bool__(self) -> bool:
        return bool(self.copies or self.mirrors)


@dataclass(slots=True)
class Routes:
    """The table of one moment."""

    bindings: tuple[tuple[str, Pattern], ...] = ()
    #: Inbox to those who may have copies of what it gets.
    consents: Mapping[str, frozenset[str]] = field(default_factory=dict)
    watched: tuple[Pattern, ...] = ()
    #: Fields of Redis that are no bindings or consents: somebody's hand wrote them.
    ignored: tuple[str, ...] = ()
    _known: dict[str, Route] = field(default_factory=dict, repr=False)

    @property
    def empty(self) -> bool:
        """Whether nothing is copied or mirrored at all."""
        return not (self.bindings or self.watched)

    def route(self, topic: str) -> Route:
        """Return what else happens to messages of a topic."""
        found = self._known.get(topic)
        if found is None:
            if len(self._known) >= _MOST_TOPICS:
                self._known.clear()
            found = self._known[topic] = Route(
                self._copies(topic),
                tuple(pattern.text for pattern in self.watched if pattern.matches(topic)),
            )
        return found

    def _copies(self, topic: str) -> tuple[Copy, ...]:
        # Not parsed: what no pattern reaches (a conversation, say) need not be a topic of the grammar.
        address = ".".join(topic.split(".", 2)[:2])
        inbox = address if is_inbox(address) else None
        found: dict[str, Copy] = {}
        for agent, pattern in self.bindings:
            # What an agent gets anyway it never gets twice.
            if inbox_of(agent) != inbox and agent not in found and pattern.matches(topic):
                found[agent] = Copy(agent, pattern.text, inbox is None or self.allows(inbox, agent))
        return tuple(found.values())

    def allows(self, inbox: str, agent: str) -> bool:
        """Whether an agent may have copies of what an inbox gets."""
        return not self.consents.get(inbox, frozenset()).isdisjoint((agent, ANYBODY))


def compiled(raw: RawTable) -> Routes:
    """Return the table that the server told; what is none in it is left out and named."""
    ignored: list[str] = []
    return Routes(
        tuple(_bindings(raw.bindings, ignored)),
        _consents(raw.consents, ignored),
        tuple(_watched(raw.watched)),
        tuple(ignored),
    )


def _bindings(stored: Mapping[Field, bytes], ignored: list[str]) -> Iterator[tuple[str, Pattern]]:
    for agent, text in sorted(stored):
        try:
            yield check_name(agent, "agent"), parse_pattern(text, everything=True)
        except InvalidValue as error:
            ignored.append(f"bindings {agent} {text}: {error}")


def _consents(stored: Mapping[Field, bytes], ignored: list[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for (inbox, agent), value in stored.items():
        names = names_in(value)
        if names is None:
            ignored.append(f"consents {inbox} {agent}: not a list of names")
        else:
            # Whoever serves an inbox sees what it gets, and could pass it on: each may consent for it.
            found[inbox] = found.get(inbox, frozenset()) | names
    return found


def age_of(binding: bytes | None, now_ms: float) -> float:
    """Return how long ago a stored binding was declared, in ms; 0 when nothing says so."""
    since = since_of(binding)
    return 0.0 if since is None else now_ms - since


def since_of(binding: bytes | None) -> int | None:
    """Return when a stored binding was declared, in ms; None when a person wrote it without."""
    try:
        since = json.loads(binding or b"{}").get("since")
    except (ValueError, AttributeError):
        return None
    return since if isinstance(since, int) else None


def names_in(value: bytes) -> frozenset[str] | None:
    """Return the agents in a stored consent; None when it is none."""
    try:
        names: Any = json.loads(value)
    except ValueError:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return frozenset(names)


def _watched(patterns: Sequence[str]) -> Iterator[Pattern]:
    for text in patterns:
        try:
            yield parse_pattern(text, everything=True)
        except InvalidValue:
            # Anybody may subscribe to a channel of any name.
            continue


def inbox_of(agent: str) -> str:
    """Return the address of an agent's own inbox."""
    return f"{AGENT}.{agent}"
