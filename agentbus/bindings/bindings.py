"""Bindings as people see them: listed with their counters, and removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agentbus.bindings.routes import compiled, since_of
from agentbus.broker.bindings import BindingStore


@dataclass(frozen=True, slots=True)
class Binding:
    """One agent gets copies of what matches one pattern."""

    agent: str
    pattern: str
    #: None when a person wrote it into Redis.
    since: datetime | None
    #: Copies made since then, as their publishers counted them.
    copied: int = 0
    #: Copies refused, by reason: ``no_consent``, ``refused``, ``deadline``.
    refused: Mapping[str, int] = field(default_factory=dict)


async def list_bindings(store: BindingStore) -> list[Binding]:
    """Return every binding by agent and pattern."""
    raw = await store.read()
    counts = await store.counts()
    found = []
    for agent, pattern in compiled(raw).bindings:
        counted = dict(counts.get((agent, pattern.text), {}))
        since = since_of(raw.bindings[agent, pattern.text])
        begun = None if since is None else datetime.fromtimestamp(since / 1000, UTC)
        found.append(Binding(agent, pattern.text, begun, counted.pop("copied", 0), counted))
    return found
