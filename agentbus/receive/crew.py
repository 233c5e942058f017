"""What an incarnation gives to whatever reads and keeps house for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentbus.broker.answers import RawEntry
from agentbus.receive.lease import Lease
from agentbus.receive.place import Place
from agentbus.receive.workload import Workload

#: Takes entries that the broker has handed out.
Accept = Callable[[Place, Sequence[RawEntry]], None]


@dataclass(frozen=True, slots=True)
class Crew:
    """The parts of one incarnation."""

    lease: Lease
    workload: Workload
    accept: Accept
    #: Told why the lease is lost.
    lose: Callable[[str], None]
    #: How many outcomes the broker has not confirmed.
    unsettled: Callable[[], int]
