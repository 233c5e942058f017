"""Every setting, and the only place that reads the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from agentbus.errors import InvalidValue, NoBroker
from agentbus.message.durations import Duration, milliseconds

#: Where a `Bus` without a URL looks.
URL_VARIABLE = "AGENTBUS_URL"
PREFIX_VARIABLE = "AGENTBUS_PREFIX"
AGENT_VARIABLE = "AGENTBUS_AGENT"
SERVER_VARIABLE = "AGENTBUS_SERVER"
HOME_VARIABLE = "AGENTBUS_HOME"

ARCHIVE_VARIABLE = "AGENTBUS_ARCHIVE"
ARCHIVE_KEEP_VARIABLE = "AGENTBUS_ARCHIVE_KEEP"

EMBEDDED_URL = "embedded://"

_NO_URL = f"""no broker URL. Two ways out:
  - start the embedded broker with `agentbus up` and use Bus("{EMBEDDED_URL}"), or
  - name a Redis or Valkey server: Bus("redis://localhost:6379") or {URL_VARIABLE}=redis://localhost:6379"""


#: Limits of `PublisherSettings` under which nothing could ever be sent.
_COUNTS = (
    "buffer_messages", "buffer_bytes", "message_bytes", "address_limit", "batch_messages", "batch_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    """Limits of the way out."""

    #: How long a publish may wait for the broker, in all.
    deadline: Duration = 30.0
    #: Messages that may wait in this process before callers are slowed down.
    buffer_messages: int = 10_000
    #: Bytes that may wait in this process before callers are slowed down.
    buffer_bytes: int = 64 * 1024 * 1024
    #: The largest message, envelope included, in bytes.
    message_bytes: int = 1024 * 1024
    #: Unsettled messages an address may hold.
    address_limit: int = 1_000_000
    #: How long an idempotency key is remembered.
    key_window: Duration = 86_400.0
    #: Messages in one script call. Larger batches keep the broker from overlapping with this process.
    batch_messages: int = 256
    #: Bytes in one script call: the server checks its memory limit once, when a script begins.
    batch_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidValue(name, f"must be a whole number of 1 or more, not {value!r}")
        for name in ("deadline", "key_window"):
            if milliseconds(getattr(self, name), name) == 0:
                raise InvalidValue(name, "must be longer than zero")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How an agent takes, holds and gives back work."""

    #: Seconds without a beat after which others take over. A C call that keeps the interpreter lock for
    #: longer stops the beats too: make this longer than your longest one.
    lease: Duration = 4.0
    #: How long a stop waits for running handlers.
    drain: Duration = 30.0
    #: How long the event loop may stand still before the process counts as hung.
    stall_limit: Duration = 600.0
    #: Deliveries held beyond the free runners while handlers are fast; 0 = none.
    prefetch: int = 256
    #: Handlers slower than this (average of recent ones) get no prefetch.
    prefetch_below: Duration = 0.020
    #: What has not started after this goes back to the others.
    start_within: Duration = 1.0
    #: How long a pulled delivery (`Bus.inbox`, `Bus.next`) may stay unsettled.
    pulled_timeout: Duration = 300.0
    #: How often a served agent says in the registry that it is there; see `Bus.agents`.
    heartbeat: Duration = 60.0
    #: Declared for later use by orchestrators: whether work survives a short disconnect.
    resumable: bool = False
    #: Agents that may have copies of what this one's inboxes get, by `Agent.bind`; ``("*",)`` = all,
    #: ``()`` = nobody any more, None = as it was said last, and nobody at first.
    copies_to: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """How much of what has ended stays as history."""

    #: Ended messages per lane.
    messages: int = 10_000
    #: Their longest age.
    age: Duration = 7 * 86_400.0
    #: Bytes per address.
    bytes: int = 64 * 1024 * 1024
    #: Messages per channel; their age and bytes as above.
    channel_messages: int = 100_000
    #: Messages and bytes of the log of the status, ``system.bus``: one each 15 seconds, some 50 kB of it in a
    #: large fleet.
    status_messages: int = 5_000
    status_bytes: int = 16 * 1024 * 1024
    #: Dead letters per address beyond which resolved ones go; how many may wait is the policy's `dead_limit`.
    dead: int = 100_000
    #: How long a dead letter waits for a person before it is discarded, and how long a resolved one stays.
    dead_age: Duration = 30 * 86_400.0

    def __post_init__(self) -> None:
        for name in ("messages", "bytes", "channel_messages", "status_messages", "status_bytes", "dead"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InvalidValue(name, f"must be a whole number of 0 or more, not {value!r}")
        for name in ("age", "dead_age"):
            milliseconds(getattr(self, name), name)


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Everything a `Bus` can be told beyond URL and agent name."""

    #: Begins every key.
    prefix: str = "agentbus"
    #: Seconds until a command without an answer counts as lost.
    command_timeout: float = 5.0
    #: Go on with a server that may evict keys, that is: lose messages.
    allow_eviction: bool = False
    publisher: PublisherSettings = field(default_factory=PublisherSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    #: The PostgreSQL connection string of the archive, for reading history; left out: AGENTBUS_ARCHIVE.
    archive: str | None = None


def broker_url(url: str | None) -> str:
    """Return the URL given, else the one in the environment; raise `NoBroker` with the two ways out."""
    found = url or os.environ.get(URL_VARIABLE)
    if not found:
        raise NoBroker(_NO_URL)
    return found


def default_settings() -> BusSettings:
    """Return the settings of a `Bus` that was given none: defaults and the environment."""
    return BusSettings(prefix=os.environ.get(PREFIX_VARIABLE, "agentbus"))


def default_agent() -> str | None:
    """Return the agent name the environment gives this process, if any."""
    return os.environ.get(AGENT_VARIABLE)


def embedded_server() -> str | None:
    """Return the server binary that the environment picks for the embedded broker, if any."""
    return os.environ.get(SERVER_VARIABLE)


def embedded_home() -> str | None:
    """Return the folder that the environment picks for the embedded broker, if any."""
    return os.environ.get(HOME_VARIABLE)


def whole_environment() -> dict[str, str]:
    """Return the environment of this process, to hand on to one that does part of its work."""
    return dict(os.environ)


def archive_dsn() -> str | None:
    """Return the PostgreSQL connection string that the environment gives the archive, if any."""
    return os.environ.get(ARCHIVE_VARIABLE) or None


def archive_keep() -> Duration | None:
    """Return how long the environment tells the archive to keep what it has; None = for ever."""
    keep = os.environ.get(ARCHIVE_KEEP_VARIABLE) or None
    if keep is not None and milliseconds(keep, ARCHIVE_KEEP_VARIABLE) == 0:
        raise InvalidValue(ARCHIVE_KEEP_VARIABLE, "must be longer than zero; leave it out to keep everything")
    return keep


def editor() -> str | None:
    """Return the user's editor as a command line, from VISUAL or EDITOR; None without one."""
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or None
