"""Repairs that a person asks for."""

from __future__ import annotations

from dataclasses import dataclass

from agentbus.broker.connection import Broker
from agentbus.broker.keys import SOURCES, inbox_keys
from agentbus.broker.scripts import Call, load, run

#: Waiting entries that one script copies: some hundred milliseconds in which the server does nothing else.
MOST_COPIED = 50_000


@dataclass(frozen=True, slots=True)
class LaneRepair:
    """What became of one stream."""

    stream: str
    #: ``healthy``, ``repaired``, or why it was left alone: ``held``, ``many``, ``unreadable``.
    result: str
    #: ``repaired``: waiting entries in the new stream. ``held``, ``many``: how many stand in the way.
    entries: int = 0
    #: ``repaired``: ended entries that are no longer kept. ``unreadable``: nothing.
    dropped: int = 0


async def repair_lanes(broker: Broker, prefix: str, address: str) -> list[LaneRepair]:
    """Give each stream of an inbox that takes no more entries a new one with what waits in it."""
    keys = inbox_keys(prefix, address)
    repairs = []
    for source, (name, stream) in enumerate(zip(SOURCES, keys.sources, strict=True)):
        names = (stream, f"{stream}:repair", keys.cancelled)
        reply = await run(broker, Call(load("repair"), names, (MOST_COPIED, source)))
        result = reply[0].decode()
        numbers = [int(value) for value in reply[1:]] if result != "unreadable" else []
        repairs.append(LaneRepair(name, result, *numbers))
    return repairs
