"""Who reads a channel and how far; and who was handed, and has read, one of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inspection.look import fields_of, format_id, parse_id
from agentbus.broker.keys import channel_keys, subscriber_keys
from agentbus.errors import BrokerRefused

_COUNTERS = ("handed_out", "processed", "expired", "discarded", "moved", "missed", "vanished")
#: Records of one subscriber that are read to find one message; all that are kept.
_RECORDS = 2_000
#: Ends of a delivery after which its handler has run.
_READ = frozenset((b"processed", b"moved"))


@dataclass(frozen=True, slots=True)
class ChannelSubscriber:
    """One agent's place in a channel."""

    agent: str
    #: Consumers of the agent that live; none while it is away.
    consumers: tuple[str, ...]
    #: Messages that it was not handed yet; None where that cannot be told without counting.
    behind: int | None
    #: Messages that it was handed and has not settled.
    pending: int
    #: The entry it was handed last.
    last_entry_id: str
    #: When it subscribed, in ms by the server's clock; None when the cursor was made by hand.
    joined_ms: int | None
    #: handed_out, processed, expired, discarded, moved (into its inbox), missed (retention was faster),
    #: vanished.
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class ReadReceipt:
    """What one subscriber did with one message of a channel; times in ms by the server's clock."""

    agent: str
    #: When it was handed to a consumer of the agent; None: not yet, or so long ago that the record is gone.
    delivered_ms: int | None
    #: When its handler had run.
    read_ms: int | None
    #: processed, moved (it failed here and was carried into the agent's inbox), expired or discarded.
    outcome: str | None


async def channel_subscribers(broker: Broker, prefix: str, address: str) -> list[ChannelSubscriber]:
    """Return every agent with a cursor at a channel, by name."""
    log = channel_keys(prefix, address).log
    groups, added = await _groups(broker, log)
    names = sorted(groups)
    commands: list[tuple[Argument, ...]] = []
    for name in names:
        keys = subscriber_keys(prefix, address, name)
        commands += [("HGETALL", keys.subscriber), ("HKEYS", keys.alive)]
    replies = await broker.pipeline(commands) if commands else []
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return [
        _subscriber(name, groups[name], added, replies[2 * index], replies[2 * index + 1])
        for index, name in enumerate(names)
    ]


async def read_receipts(broker: Broker, prefix: str, address: str, entry_id: str) -> list[ReadReceipt]:
    """Return what each subscriber did with the entry of a channel's log, by agent."""
    groups, _ = await _groups(broker, channel_keys(prefix, address).log)
    names = sorted(groups)
    commands: list[tuple[Argument, ...]] = [
        ("XRANGE", subscriber_keys(prefix, address, name).reads, entry_id, "+", "COUNT", _RECORDS)
        for name in names
    ]
    replies = await broker.pipeline(commands) if commands else []
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return [_receipt(name, reply, entry_id) for name, reply in zip(names, replies, strict=True)]


async def _groups(broker: Broker, log: str) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the consumer groups of a log by name, and how many entries were ever added to it."""
    replies = await broker.pipeline([("XINFO", "GROUPS", log), ("XINFO", "STREAM", log)])
    for reply in replies:
        if isinstance(reply, BrokerRefused) and "no such key" in str(reply):
            return {}, 0
        if isinstance(reply, Exception):
            raise reply
    groups = {fields["name"].decode(): fields for fields in map(fields_of, replies[0])}
    return groups, int(fields_of(replies[1])["entries-added"])


def _subscriber(
    name: str, group: dict[str, Any], added: int, flat: Sequence[bytes], alive: Sequence[bytes]
) -> ChannelSubscriber:
    fields = fields_of(flat)
    position = fields.get("position")
    lag = group.get("lag")
    return ChannelSubscriber(
        agent=name,
        consumers=tuple(sorted(consumer.decode() for consumer in alive)),
        behind=max(0, added - int(position)) if position is not None else lag,
        pending=int(group["pending"]),
        last_entry_id=group["last-delivered-id"].decode(),
        joined_ms=int(fields["joined"]) if "joined" in fields else None,
        counts={counter: int(fields.get(counter, 0)) for counter in _COUNTERS},
    )


def _receipt(name: str, records: Sequence[Any], entry_id: str) -> ReadReceipt:
    delivered: int | None = None
    ended: tuple[int, bytes] | None = None
    for record_id, flat in records:
        kind, value, at = flat[0], flat[1], parse_id(record_id)[0]
        if not _covers(value, entry_id):
            continue
        if kind == b"delivered":
            delivered = delivered or at
        elif ended is None or b".." not in value:
            # A range holds those that ended by a record of their own, too.
            ended = at, kind
    if ended is None:
        return ReadReceipt(name, delivered, None, None)
    return ReadReceipt(name, delivered, ended[0] if ended[1] in _READ else None, ended[1].decode())


def _covers(value: bytes, entry_id: str) -> bool:
    first, dots, last = value.partition(b"..")
    if not dots:
        return entry_id.encode() in value.split(b" ")
    return parse_id(first) <= parse_id(entry_id) <= parse_id(last)


async def find_entry(broker: Broker, prefix: str, address: str, message_id: str, most: int) -> str | None:
    """Return the entry of a message among the last ``most`` of a channel's log; None when it is not there."""
    log, before, text = channel_keys(prefix, address).log, "+", f'"{message_id}"'.encode()
    for _ in range(0, most, 500):
        entries = await broker.execute("XREVRANGE", log, before, "-", "COUNT", 500)
        for entry_id, flat in entries:
            if text in fields_of(flat).get("message", b""):
                return format_id(parse_id(entry_id))
        if len(entries) < 500:
            return None
        before = f"({entries[-1][0].decode()}"
    return None
