"""Which kills happen when: all of it from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Target = Literal["broker", "agent", "publisher", "worker", "person", "database", "frozen"]
Mixtures = tuple[tuple[tuple[Target, ...], int], ...]

#: What dies together, and how often that is chosen.
MIXED: Mixtures = (
    (("agent",), 8),
    (("broker",), 6),
    (("publisher",), 6),
    (("broker", "agent"), 2),
    (("broker", "publisher"), 2),
    (("agent", "publisher"), 1),
    (("agent", "agent"), 1),
)
#: Of a whole fleet: the database beside whatever else may die while it is away.
FLEET: Mixtures = (
    (("worker",), 6),
    (("agent",), 3),
    (("broker",), 4),
    (("database",), 3),
    (("publisher",), 2),
    (("person",), 2),
    (("worker", "worker"), 1),
    (("worker", "broker"), 2),
    (("worker", "database"), 2),
    (("database", "broker"), 1),
    (("person", "broker"), 1),
)
#: Of channels: agents that are killed and frozen, also while the broker is away.
CHANNELS: Mixtures = (
    (("agent",), 8),
    (("frozen",), 5),
    (("broker",), 4),
    (("publisher",), 3),
    (("broker", "agent"), 2),
    (("agent", "frozen"), 2),
)
#: Of messages to named agents: those who send them die more often, between two recipients if it so happens.
RECIPIENTS: Mixtures = (
    (("publisher",), 7),
    (("agent",), 6),
    (("frozen",), 4),
    (("broker",), 4),
    (("broker", "publisher"), 2),
    (("broker", "agent"), 2),
    (("agent", "frozen"), 1),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One moment at which something dies."""

    #: Seconds after the burst of messages was released.
    after: float
    #: What is killed, in this order; a broker is started again after the others were killed.
    targets: tuple[Target, ...]
    #: Seconds that a killed broker stays away.
    away: float
    #: Which of the living processes, as a number to be reduced.
    pick: int


def faults(seed: str, kills: int, mixtures: Mixtures = MIXED) -> Iterator[Fault]:
    """Yield faults with ``kills`` kills in all."""
    dice = random.Random(f"{seed} faults")
    choices, weights = zip(*mixtures, strict=True)
    while kills > 0:
        targets = dice.choices(choices, weights)[0][:kills]
        kills -= len(targets)
        away = dice.choice((0.0, 0.1, 0.5, 1.5))
        yield Fault(dice.uniform(0.0, 0.25), targets, away, dice.randrange(1_000_000))
