"""An agent of the fleet as people see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agentbus.broker.registry import StoredAgent, StoredInstance

#: Beats that an instance may miss and still count as there.
_ONLINE_BEATS = 3


@dataclass(frozen=True, slots=True)
class AgentInstance:
    """One process that serves an agent, or did a moment ago. Times are in UTC, by the server's clock."""

    id: str
    host: str
    pid: int
    since: datetime
    last_seen: datetime
    #: Whether it was seen within three of its beats.
    online: bool


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """One agent, as it was at one moment. Times are in UTC, by the server's clock."""

    name: str
    type: str
    #: What it says that it can do.
    capabilities: tuple[str, ...]
    #: The processes that serve it, the oldest first.
    instances: tuple[AgentInstance, ...]
    #: When it was first served.
    registered_at: datetime
    last_seen: datetime

    @property
    def online(self) -> bool:
        """Whether any instance was seen within three of its beats."""
        return any(instance.online for instance in self.instances)

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "name": self.name,
            "type": self.type,
            "capabilities": list(self.capabilities),
            "online": self.online,
            "registered_at": shown(self.registered_at),
            "last_seen": shown(self.last_seen),
            "instances": [
                {
                    "id": instance.id,
                    "host": instance.host,
                    "pid": instance.pid,
                    "since": shown(instance.since),
                    "last_seen": shown(instance.last_seen),
                    "online": instance.online,
                }
                for instance in self.instances
            ],
        }


def info_of(stored: StoredAgent, now_ms: int) -> AgentInfo:
    """Return what is stored of an agent as it is at the server's time ``now_ms``."""
    return AgentInfo(
        stored.name,
        stored.type,
        stored.capabilities,
        tuple(_instance(each, now_ms) for each in stored.instances),
        _instant(stored.registered_at),
        _instant(stored.last_seen),
    )


def _instance(stored: StoredInstance, now_ms: int) -> AgentInstance:
    online = now_ms - stored.last_seen <= _ONLINE_BEATS * stored.beat_ms
    since, seen = _instant(stored.since), _instant(stored.last_seen)
    return AgentInstance(stored.id, stored.host, stored.pid, since, seen, online)


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def shown(at: datetime) -> str:
    """Return a point in time as RFC 3339 text with milliseconds."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
