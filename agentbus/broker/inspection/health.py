"""What a server says of itself, beyond what a bus checks when it opens."""

from __future__ import annotations

import time
from dataclasses import dataclass

from agentbus.broker.connection import Broker
from agentbus.errors import BrokerRefused

#: A script in the form of ours: flags in the first line need Redis 7.0.
_SCRIPT = "#!lua flags=allow-oom,no-writes\nreturn 'works'"
_PINGS = 7


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """One look at a server."""

    #: INFO, field by field.
    information: dict[str, str]
    #: None: scripts run; else what the server said.
    script_problem: str | None
    #: Whether it loads a file whose end a kill has torn, and cuts it by itself; False when it does not say.
    loads_torn_file: bool = False

    def number(self, field: str) -> int:
        """Return a numeric field; 0 when the server does not report it."""
        text = self.information.get(field, "")
        return int(text) if text.lstrip("-").isdigit() else 0


@dataclass(frozen=True, slots=True)
class Latency:
    """How far away a server is, and how its clock differs."""

    #: The median of some round trips, in ms.
    median_ms: float
    #: Server clock minus this machine's, in ms, by the fastest round trip.
    skew_ms: float
    #: The skew cannot be told more exactly than this, in ms.
    skew_error_ms: float


async def read_health(broker: Broker) -> ServerHealth:
    """Ask the server for everything it reports, and whether it runs scripts."""
    information: dict[str, str] = {}
    for section in ("server", "clients", "memory", "persistence", "stats", "replication"):
        text = (await broker.execute("INFO", section)).decode(errors="replace")
        information.update(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        await broker.execute("EVAL", _SCRIPT, 0)
        problem = None
    except BrokerRefused as error:
        problem = str(error)
    return ServerHealth(information, problem, await _loads_torn_file(broker))


async def _loads_torn_file(broker: Broker) -> bool:
    try:
        return bool((await broker.execute("CONFIG", "GET", "aof-load-truncated"))[1:] == [b"yes"])
    except BrokerRefused:
        return False


async def measure_latency(broker: Broker) -> Latency:
    """Time some round trips and compare clocks."""
    trips = []
    for _ in range(_PINGS):
        begun, wall = time.perf_counter(), time.time()
        answer = await broker.execute("TIME")
        took = time.perf_counter() - begun
        server = int(answer[0]) + int(answer[1]) / 1e6
        trips.append((took * 1000, (server - wall - took / 2) * 1000))
    fastest = min(trips)
    return Latency(sorted(trips)[_PINGS // 2][0], fastest[1], fastest[0] / 2)
