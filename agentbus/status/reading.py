"""Reads the status of the bus: in small steps with pauses, so that no number of addresses pins the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace

from agentbus.broker.channel import Channel
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.counts import (
    ChannelCounts,
    Counts,
    InboxCounts,
    Unreadable,
    count_addresses,
    scan_addresses,
)
from agentbus.broker.inspection.look import format_id
from agentbus.broker.server import connected_clients, read_facts
from agentbus.broker.worker_registry import ABSENT_AFTER_MS, WorkerRegistry
from agentbus.errors import BrokerRefused, InvalidValue, MalformedMessage
from agentbus.message.codec import decode
from agentbus.status.rates import with_rates
from agentbus.status.values import AddressStatus, BusStatus, ChannelStatus, ServerStatus, Totals

#: Where the status is published, and as what.
ADDRESS, MESSAGE_TYPE = "system.bus", "status"
#: Addresses that are shown one by one.
MOST_ADDRESSES, MOST_CHANNELS, _MOST_PROBLEMS = 200, 50, 20
#: The longest pause between two steps, in seconds.
_LONGEST_PAUSE = 0.05


async def read_status(broker: Broker, prefix: str, since: BusStatus | None) -> BusStatus:
    """Return the status now, with rates since an earlier one if there is one."""
    counts: list[Counts] = []
    async for names in scan_addresses(broker, prefix):
        begun = time.monotonic()
        counts += await count_addresses(broker, prefix, names)
        # The server is left alone for half as long as the step took.
        await asyncio.sleep(min(_LONGEST_PAUSE, (time.monotonic() - begun) / 2))
    status = _status_of(await _server_ms(broker), counts)
    return with_rates(
        replace(status, workers=await _workers(broker, prefix), server=await _server(broker)), since
    )


async def last_published(broker: Broker, prefix: str) -> BusStatus | None:
    """Return the status that a worker published last, or None."""
    text = await Channel(broker, prefix, ADDRESS).last_message()
    if text is None:
        return None
    try:
        return BusStatus.from_record(decode(text).content)
    except (MalformedMessage, InvalidValue):
        # Anybody may write to the channel.
        return None


def _status_of(at_ms: int, counts: Iterable[Counts]) -> BusStatus:
    inboxes: list[AddressStatus] = []
    channels: list[ChannelStatus] = []
    problems: dict[str, str] = {}
    for found in counts:
        if isinstance(found, InboxCounts):
            inboxes.append(_address(found))
        elif isinstance(found, ChannelCounts):
            channels.append(_channel(found))
        elif isinstance(found, Unreadable) and len(problems) < _MOST_PROBLEMS:
            problems[found.address] = found.problem
    inboxes.sort(key=lambda each: (-each.waiting, -each.in_flight, -each.due, -each.dead, each.address))
    channels.sort(key=lambda each: (_moment(each.last_entry_id), each.address), reverse=True)
    return BusStatus(
        at_ms=at_ms,
        addresses=tuple(inboxes[:MOST_ADDRESSES]),
        rest=sum_up(inboxes[MOST_ADDRESSES:]),
        total=sum_up(inboxes),
        channels=tuple(channels[:MOST_CHANNELS]),
        channel_count=len(channels),
        workers=None,
        server=None,
        problems=problems,
    )


def _address(counts: InboxCounts) -> AddressStatus:
    return AddressStatus(
        address=counts.address,
        consumers=counts.consumers,
        waiting=counts.waiting,
        in_flight=counts.in_flight,
        due=counts.due,
        dead=counts.dead,
        oldest_ms=counts.oldest_ms,
        depths={name: depth for name, depth in counts.depths.items() if depth != 0},
        estimated=counts.estimated,
        counters={name: count for name, count in counts.counters.items() if count},
    )


def _channel(counts: ChannelCounts) -> ChannelStatus:
    return ChannelStatus(
        counts.address, counts.length, format_id(counts.last_id), counts.accepted,
        subscribers=counts.subscribers,
    )  # fmt: skip


def _moment(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def sum_up(inboxes: Iterable[AddressStatus]) -> Totals:
    """Return several inboxes together."""
    found = list(inboxes)
    return Totals(
        addresses=len(found),
        consumers=sum(each.consumers for each in found),
        waiting=sum(each.waiting for each in found),
        in_flight=sum(each.in_flight for each in found),
        due=sum(each.due for each in found),
        dead=sum(each.dead for each in found),
        oldest_ms=max((each.oldest_ms for each in found if each.oldest_ms is not None), default=None),
        accepted=sum(each.counters.get("accepted", 0) for each in found),
        processed=sum(each.counters.get("processed", 0) for each in found),
    )


async def _server_ms(broker: Broker) -> int:
    seconds, microseconds = await broker.execute("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000


async def _workers(broker: Broker, prefix: str) -> int | None:
    try:
        roll = await WorkerRegistry(broker, prefix).roll()
    except BrokerRefused:
        return None
    return sum(worker.seen_at >= roll.server_ms - ABSENT_AFTER_MS for worker in roll.workers)


async def _server(broker: Broker) -> ServerStatus | None:
    try:
        facts = await read_facts(broker)
        clients = await connected_clients(broker)
    except BrokerRefused:
        return None
    return ServerStatus(facts.kind, facts.version, facts.used_memory, facts.max_memory, clients)
