"""Read-only views of what Redis holds. Nothing here joins a group, takes work or writes a key.

``look``: one address in one atomic read. ``inbox_view``: the same for people, with the ledger. ``counts``:
many addresses in numbers. ``tracing``: every place of one message. ``tailing``: what arrives. ``health``:
what the server says of itself.
"""

from agentbus.broker.inspection.counts import (
    ChannelCounts,
    Counts,
    InboxCounts,
    Unreadable,
    count_addresses,
)
from agentbus.broker.inspection.found import Place, Step
from agentbus.broker.inspection.health import Latency, ServerHealth, measure_latency, read_health
from agentbus.broker.inspection.inbox_view import (
    AddressTotals,
    ConsumerView,
    InboxView,
    LaneView,
    Ledger,
    inspect_inbox,
    known_addresses,
    totals_of,
)
from agentbus.broker.inspection.look import Look, StreamLook, take_look
from agentbus.broker.inspection.tailing import Tail, TailedEntry
from agentbus.broker.inspection.tracing import Trace, trace_message

__all__ = [
    "AddressTotals",
    "ChannelCounts",
    "ConsumerView",
    "Counts",
    "InboxCounts",
    "InboxView",
    "LaneView",
    "Latency",
    "Ledger",
    "Look",
    "Place",
    "ServerHealth",
    "Step",
    "StreamLook",
    "Tail",
    "TailedEntry",
    "Trace",
    "Unreadable",
    "count_addresses",
    "inspect_inbox",
    "known_addresses",
    "measure_latency",
    "read_health",
    "take_look",
    "totals_of",
    "trace_message",
]
