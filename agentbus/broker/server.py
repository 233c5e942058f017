"""What server this is, and whether messages are safe with it."""

from __future__ import annotations

from dataclasses import dataclass

from agentbus.broker.connection import Broker, LoginRefused
from agentbus.errors import BrokerRefused, UnsafeBroker
from agentbus.events import Events

#: The only policy under which a full server refuses new work instead of deleting old.
SAFE_POLICY = "noeviction"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself."""

    kind: str
    version: str
    #: None when the server does not say (CONFIG is denied and INFO has no such line).
    eviction_policy: str | None
    used_memory: int
    max_memory: int


async def read_facts(broker: Broker) -> ServerFacts:
    """Return what INFO says; Valkey's own version, not the one it shows for compatibility."""
    fields: dict[str, str] = {}
    for section in ("server", "memory"):
        text = (await broker.execute("INFO", section)).decode()
        fields.update(line.split(":", 1) for line in text.splitlines() if ":" in line)
    valkey = fields.get("valkey_version")
    return ServerFacts(
        kind="Valkey" if valkey else "Redis",
        version=valkey or fields.get("redis_version", "unknown"),
        eviction_policy=fields.get("maxmemory_policy") or await _configured_policy(broker),
        used_memory=int(fields.get("used_memory", 0)),
        max_memory=int(fields.get("maxmemory", 0)),
    )


async def connected_clients(broker: Broker) -> int:
    """Return how many clients are connected."""
    text = (await broker.execute("INFO", "clients")).decode()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields.get("connected_clients", 0))


async def _configured_policy(broker: Broker) -> str | None:
    try:
        reply = await broker.execute("CONFIG", "GET", "maxmemory-policy")
    except BrokerRefused:
        return None
    return reply[1].decode() if len(reply) > 1 else None


async def check_safe(broker: Broker, events: Events, allow_eviction: bool) -> None:
    """Refuse a server that may delete messages to make room; warn once about one that does not say."""
    try:
        policy = (await read_facts(broker)).eviction_policy
    except LoginRefused:
        raise
    except BrokerRefused:
        policy = None
    if policy is None:
        events.emit(
            "unknown_eviction",
            "",
            f"the server does not say whether it evicts keys; maxmemory-policy must be {SAFE_POLICY}",
        )
    elif policy != SAFE_POLICY and not allow_eviction:
        raise UnsafeBroker(
            f"the server's maxmemory-policy is {policy}: when full, it deletes whole inboxes. Set it to "
            f"{SAFE_POLICY} (CONFIG SET maxmemory-policy {SAFE_POLICY}), or accept the loss with "
            "BusSettings(allow_eviction=True)"
        )
