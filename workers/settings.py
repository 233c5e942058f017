"""Every setting of the workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentbus.broker.worker_registry import ABSENT_AFTER_MS
from agentbus.message.durations import Duration
from agentbus.settings import RetentionSettings


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker process paces itself; durations in seconds."""

    #: Between beats in the registry of workers.
    beat: float = 1.0
    #: Without a beat for this long, others do a worker's share.
    absent_after: float = ABSENT_AFTER_MS / 1000
    #: How long a stop waits for what a role is doing.
    drain: float = 10.0
    #: Addresses that one role looks at in a second, so that ten thousand of them do not pin the server.
    addresses_per_second: float = 2_000.0
    #: Between messages on ``system.bus.status``.
    status_interval: float = 15.0
    #: The lease of consumers: without a beat for this long they count as dead. As in `AgentSettings`.
    lease: float = 4.0
    #: Between the beginnings of two walks over all inboxes that put back lost announcements, list lanes that
    #: hand-made entries left out, and report orphans.
    sweep: float = 30.0
    #: Between two walks that look for consumers that are known to a group and not alive.
    strangers: float = 10.0
    #: The connection string of the archive; None = there is none.
    archive: str | None = None
    #: How long the archive keeps what it has; None = for ever. Whole months go.
    archive_keep: Duration | None = None
    #: What stays as history where an address has no policy of its own.
    retention: RetentionSettings = field(default_factory=RetentionSettings)
