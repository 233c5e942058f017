"""What an open bus is made of, and how it is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentbus.bindings.debts import Debts
from agentbus.bindings.forwarding import Forwarder
from agentbus.bindings.table import BindingTable
from agentbus.broker.bindings import BindingStore
from agentbus.broker.carry import Carrier
from agentbus.broker.connection import Broker, ConnectionSettings
from agentbus.broker.embedded import EmbeddedSettings, ensure_running
from agentbus.broker.log_watch import LogWatch
from agentbus.broker.owed import DebtStore
from agentbus.broker.policy_store import PolicyStore
from agentbus.broker.registry import Registry
from agentbus.broker.server import check_safe
from agentbus.broker.server_clock import jump_told
from agentbus.broker.wake import Announcer
from agentbus.declarations import Declarations
from agentbus.errors import AgentBusError, ConfigurationError
from agentbus.events import Events
from agentbus.history.archived import LazyArchive
from agentbus.history.history import History
from agentbus.live.live import Compose, Live
from agentbus.message.durations import milliseconds
from agentbus.receive.grounds import Grounds
from agentbus.receive.lease import Heart
from agentbus.receive.workload import SuspectGate
from agentbus.send.envelope import Sender
from agentbus.send.publisher import Publisher
from agentbus.send.replies import Replies
from agentbus.settings import (
    EMBEDDED_URL,
    BusSettings,
    archive_dsn,
    embedded_home,
    embedded_server,
)


@dataclass(frozen=True, slots=True)
class Rooms:
    """What an open bus is made of."""

    broker: Broker
    publisher: Publisher
    replies: Replies
    grounds: Grounds
    policies: Declarations
    registry: Registry
    history: History
    archive: LazyArchive | None
    bindings: BindingStore
    table: BindingTable
    forwarder: Forwarder
    debts: Debts
    live: Live

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        await self.live.close()
        await self.replies.close()
        await self.publisher.close()
        await self.grounds.watch.close()
        await self.grounds.heart.stop()
        if self.archive is not None:
            await self.archive.close()
        await self.broker.close()


async def open_rooms(
    url: str, sender: Sender, settings: BusSettings, events: Events, compose: Compose
) -> Rooms:
    """Connect and check the server; raises `BrokerUnavailable` or `UnsafeBroker`.

    ``compose`` makes live events of what callers give.
    """
    url = await _resolved(url)

    def connect(role: str) -> Broker:
        name = f"agentbus:{sender.agent or 'anonymous'}:{role}"
        return Broker(ConnectionSettings(url, client_name=name, command_timeout=settings.command_timeout))

    broker = connect("bus")
    try:
        await check_safe(broker, events, settings.allow_eviction)
    except AgentBusError:
        await broker.close()
        raise
    grounds = _grounds(broker, lambda: connect("heart"), settings, events)
    return _furnished(grounds, sender, settings, compose)


def _grounds(
    broker: Broker, connect_heart: Callable[[], Broker], settings: BusSettings, events: Events
) -> Grounds:
    """Return what everything shares that this process serves."""

    def tell_jump(seconds: float) -> None:
        events.emit("clock_jump", "", jump_told(seconds), seconds=seconds)

    prefix = settings.prefix
    key_window_ms = milliseconds(settings.publisher.key_window, "key_window")
    return Grounds(
        broker=broker,
        prefix=prefix,
        heart=Heart(connect_heart, tell_jump),
        events=events,
        gate=SuspectGate(),
        retention=settings.retention,
        key_window_ms=key_window_ms,
        carrier=Carrier(broker, prefix, key_window_ms, Announcer(broker, prefix, events)),
        watch=LogWatch(broker),
    )


def _furnished(grounds: Grounds, sender: Sender, settings: BusSettings, compose: Compose) -> Rooms:
    broker, prefix, events = grounds.broker, grounds.prefix, grounds.events
    bindings = BindingStore(broker, prefix)
    table = BindingTable(bindings, events)
    debts = DebtStore(broker, prefix)
    forwarder = Forwarder(broker, prefix, table, bindings, debts, grounds.carrier)
    dsn = settings.archive or archive_dsn()
    archive = LazyArchive(dsn, prefix) if dsn else None
    return Rooms(
        broker=broker,
        publisher=Publisher(broker, prefix, sender, settings.publisher, events, forwarder),
        replies=Replies(broker, prefix, events),
        grounds=grounds,
        policies=Declarations(PolicyStore(broker, prefix)),
        registry=Registry(broker, prefix),
        history=History(broker, prefix, archive),
        archive=archive,
        bindings=bindings,
        table=table,
        forwarder=forwarder,
        debts=Debts(debts, forwarder, events),
        live=Live(broker, prefix, events, compose),
    )


async def _resolved(url: str) -> str:
    """Return a URL that can be connected to; ``embedded://`` starts the user's embedded broker."""
    if not url.startswith("embedded:"):
        return url
    if url != EMBEDDED_URL:
        raise ConfigurationError(f"url: {url!r}: the embedded broker's URL is {EMBEDDED_URL}")
    home = embedded_home()
    settings = EmbeddedSettings(folder=Path(home) if home else None, server=embedded_server())
    return (await ensure_running(settings)).url
