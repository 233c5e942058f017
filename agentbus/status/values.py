"""The status of the bus as values, and as the body of the messages on ``system.bus.status``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from agentbus.errors import InvalidValue

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class AddressStatus:
    """One inbox."""

    address: str
    #: Consumers that hold a lease; one that died counts until somebody has taken over its work.
    consumers: int
    waiting: int
    in_flight: int
    due: int
    dead: int
    #: How long the oldest waiting message has waited where it waits, in ms.
    oldest_ms: int | None = None
    #: What waits by stream (`returned` and the priorities); what is empty is left out, None = only the
    #: sum of such lanes is known.
    depths: Mapping[str, int | None] = field(default_factory=dict)
    #: True when the server has lost count and `waiting` is worked out from the ledger.
    estimated: bool = False
    #: accepted, processed, expired, retried, …, since the address began; zeros are left out.
    counters: Mapping[str, int] = field(default_factory=dict)
    #: Messages per second since the status before; None without one.
    accepted_rate: float | None = None
    processed_rate: float | None = None


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """The log of one channel."""

    address: str
    #: Messages in the log.
    length: int
    last_entry_id: str
    #: Messages ever accepted.
    accepted: int
    #: Messages per second since the status before; None without one.
    accepted_rate: float | None = None
    #: Agents with a cursor here.
    subscribers: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Several inboxes together."""

    addresses: int = 0
    consumers: int = 0
    waiting: int = 0
    in_flight: int = 0
    due: int = 0
    dead: int = 0
    #: Of the message that has waited longest, in ms.
    oldest_ms: int | None = None
    accepted: int = 0
    processed: int = 0
    #: Messages per second since the status before; None without one.
    accepted_rate: float | None = None
    processed_rate: float | None = None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server."""

    kind: str
    version: str
    used_memory: int
    #: 0 = no limit.
    max_memory: int
    clients: int


@dataclass(frozen=True, slots=True)
class BusStatus:
    """The bus at one moment: at most 200 inboxes one by one, the deepest first, the others summed."""

    #: The server's clock, in ms.
    at_ms: int
    addresses: tuple[AddressStatus, ...]
    #: The inboxes that are not in `addresses`.
    rest: Totals
    #: All inboxes.
    total: Totals
    #: At most 50 channels, the latest to get a message first.
    channels: tuple[ChannelStatus, ...]
    #: How many channels there are.
    channel_count: int
    #: Worker processes that live; None when the server did not say.
    workers: int | None
    #: None when this user may not ask the server.
    server: ServerStatus | None
    #: Addresses that could not be read, and why.
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def at(self) -> datetime:
        """The server's clock."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC)

    def to_record(self) -> dict[str, Any]:
        """Return what is published and printed: JSON values."""
        return {"at": self.at.isoformat(timespec="milliseconds"), **asdict(self)}

    @classmethod
    def from_record(cls, record: Any) -> BusStatus:
        """Return a status that was published; raises `InvalidValue` when it is none."""
        try:
            values = _known(cls, record)
            values["addresses"] = tuple(_read(AddressStatus, item) for item in values["addresses"])
            values["channels"] = tuple(_read(ChannelStatus, item) for item in values["channels"])
            values["rest"], values["total"] = (_read(Totals, values[name]) for name in ("rest", "total"))
            if values["server"] is not None:
                values["server"] = _read(ServerStatus, values["server"])
            return cls(**values)
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidValue("status", f"is not the status of a bus: {error}") from error


def _read(kind: type[Value], record: Any) -> Value:
    return kind(**_known(kind, record))


def _known(kind: type[Any], record: Any) -> dict[str, Any]:
    """Return the fields that this version knows: a newer one may have added some."""
    return {item.name: record[item.name] for item in fields(kind) if item.name in record}
