"""How far the archive is behind, at many addresses in one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Broker
from agentbus.broker.scripts import Call, load, run_all
from agentbus.errors import BrokerError, BrokerUnavailable


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far the archive is behind at one address."""

    #: Age of the oldest that is not archived, in ms; 0 when there is none.
    lag_ms: int
    #: Messages that have ended and are not archived, where they count against the limit; else 0.
    unarchived: int
    #: Messages committed, and those of them that had left Redis before.
    archived: int
    missing: int
    #: Whether there is anything that the archive has not read.
    any: bool
    #: Whether retention knows up to where it may remove; without a border nothing goes.
    has_border: bool
    #: Whether what is not archived counts against the limit.
    counts: bool
    #: The declared policy as it is stored.
    policy: Mapping[str, str]


def backlog_call(archived: str, ledger: str, stream: str, policy: str, field_name: str) -> Call:
    """Return the look at one address."""
    return Call(load("unarchived"), (archived, ledger, stream, policy), (field_name,))


def backlog_of(reply: Sequence[Any]) -> Backlog:
    """Return what a look has found."""
    age, has_border, counts, ended, archived, missing, forgiven, policy = reply
    items = iter(policy)
    return Backlog(
        lag_ms=max(0, age),
        unarchived=max(0, ended - archived - forgiven) if counts else 0,
        archived=archived,
        missing=missing,
        any=age >= 0,
        has_border=has_border == 1,
        counts=counts == 1,
        policy={
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in zip(items, items, strict=True)
        },
    )


async def backlogs(broker: Broker, calls: Sequence[Call]) -> list[Backlog | BrokerError]:
    """Return what each look has found, or why it was refused: one spoilt address must not hide the others."""
    found: list[Backlog | BrokerError] = []
    for reply in await run_all(broker, calls):
        if isinstance(reply, BrokerUnavailable):
            # Not this address but the server: it loads its data, or runs somebody's long script.
            raise reply
        found.append(reply if isinstance(reply, BrokerError) else backlog_of(reply))
    return found
