"""agentbus: the message bus that AI-agent processes use to work together.

Names are loaded when they are first used, so that `agentbus --help` need not wait for the driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentbus.bindings.bindings import Binding
    from agentbus.broker.inspection.inbox_view import InboxView
    from agentbus.broker.inspection.tracing import Trace
    from agentbus.bus import Bus
    from agentbus.cancellation import Cancelled, CancelledPlace
    from agentbus.conversations.conversation import Conversation, LastMessage
    from agentbus.dead_letters import BulkRetry, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters
    from agentbus.errors import (
        AgentBusError,
        AlreadySettled,
        BodyNotSerializable,
        BodyTooLarge,
        BrokerError,
        BrokerOutOfMemory,
        BrokerRefused,
        BrokerUnavailable,
        CancelRefused,
        ConfigurationError,
        DeadLetterError,
        DeadLetterResolved,
        Defer,
        DeliveryError,
        DurabilityUnavailable,
        GroupMissing,
        InvalidTopic,
        InvalidValue,
        KeyConflict,
        LoopDetected,
        MalformedMessage,
        NoBroker,
        NoSuchAddress,
        NoSuchAgent,
        NoSuchCursor,
        NoSuchDeadLetter,
        NoSuchMessage,
        NoSuchReceipts,
        NoSuchSchedule,
        NotYourConversation,
        PartsMissing,
        PolicyConflict,
        PublisherClosed,
        PublishError,
        PublishRefused,
        PublishTimeout,
        QueueFull,
        ReceiptError,
        ReceiptTimeout,
        Reject,
        RequestError,
        RequestFailed,
        RequestTimeout,
        StaleDelivery,
        StreamRestarted,
        UnknownRecipients,
        UnsafeBroker,
        WrongKeyType,
    )
    from agentbus.events import Event, Events
    from agentbus.fleet.info import AgentInfo, AgentInstance
    from agentbus.history.conversation import ConversationTrace, Turn
    from agentbus.history.entry import HistoryEntry, HistoryGap, HistoryPage
    from agentbus.history.query import HistoryFilters
    from agentbus.live.gap import WatchGap
    from agentbus.live.live import EmitOptions
    from agentbus.live.watch import Watch
    from agentbus.message.address_policy import Policy
    from agentbus.message.copies import RefusedCopy
    from agentbus.message.message import Message
    from agentbus.message.policy import Retry
    from agentbus.message.topics import Topic
    from agentbus.projects import ProjectDeleted, ProjectRemoval
    from agentbus.receive.agent import Agent, CallNext, Middleware
    from agentbus.receive.context import Context
    from agentbus.receive.delivery import Delivery
    from agentbus.receive.subscriber import Subscriber
    from agentbus.recipients.receipt import Receipt
    from agentbus.recipients.sent import Sent, SentTo
    from agentbus.replay import Replayed, ReplayFilters, ReplayProgress
    from agentbus.schedules.schedule import Schedule
    from agentbus.schedules.schedules import ScheduleOptions
    from agentbus.send.collecting import Answer, Answers, Collecting
    from agentbus.send.envelope import PublishOptions
    from agentbus.send.publisher import Publisher
    from agentbus.send.stored import Stored
    from agentbus.send.streaming import Restarted
    from agentbus.settings import AgentSettings, BusSettings, PublisherSettings, RetentionSettings
    from agentbus.status.values import AddressStatus, BusStatus, ChannelStatus

__version__ = "0.1.0"

#: Module to the public names it defines.
_HOMES = {
    "agentbus.projects": "ProjectDeleted ProjectRemoval",
    "agentbus.replay": "ReplayFilters ReplayProgress Replayed",
    "agentbus.cancellation": "Cancelled CancelledPlace",
    "agentbus.bindings.bindings": "Binding",
    "agentbus.broker.inspection.inbox_view": "InboxView",
    "agentbus.broker.inspection.tracing": "Trace",
    "agentbus.bus": "Bus",
    "agentbus.conversations.conversation": "Conversation LastMessage",
    "agentbus.dead_letters": "BulkRetry DeadLetter DeadLetterFilter DeadLetterPage DeadLetters",
    "agentbus.errors": (
        "AgentBusError AlreadySettled BodyNotSerializable BodyTooLarge BrokerError "
        "BrokerOutOfMemory BrokerRefused BrokerUnavailable ConfigurationError "
        "DeadLetterError DeadLetterResolved Defer "
        "DeliveryError DurabilityUnavailable GroupMissing InvalidTopic InvalidValue "
        "KeyConflict LoopDetected MalformedMessage NoBroker NoSuchAddress NoSuchAgent NoSuchCursor "
        "NoSuchDeadLetter NoSuchMessage NoSuchReceipts NoSuchSchedule NotYourConversation "
        "PartsMissing PolicyConflict "
        "PublisherClosed PublishError PublishRefused PublishTimeout QueueFull "
        "ReceiptError ReceiptTimeout Reject RequestError RequestFailed RequestTimeout StaleDelivery "
        "StreamRestarted UnknownRecipients CancelRefused UnsafeBroker WrongKeyType "
    ),
    "agentbus.events": "Event Events",
    "agentbus.fleet.info": "AgentInfo AgentInstance",
    "agentbus.history.conversation": "ConversationTrace Turn",
    "agentbus.history.entry": "HistoryEntry HistoryGap HistoryPage",
    "agentbus.history.query": "HistoryFilters",
    "agentbus.live.gap": "WatchGap",
    "agentbus.live.live": "EmitOptions",
    "agentbus.live.watch": "Watch",
    "agentbus.message.address_policy": "Policy",
    "agentbus.message.copies": "RefusedCopy",
    "agentbus.message.message": "Message",
    "agentbus.message.policy": "Retry",
    "agentbus.message.topics": "Topic",
    "agentbus.receive.agent": "Agent CallNext Middleware",
    "agentbus.receive.context": "Context",
    "agentbus.receive.delivery": "Delivery",
    "agentbus.receive.subscriber": "Subscriber",
    "agentbus.recipients.receipt": "Receipt",
    "agentbus.recipients.sent": "Sent SentTo",
    "agentbus.schedules.schedule": "Schedule",
    "agentbus.schedules.schedules": "ScheduleOptions",
    "agentbus.send.collecting": "Answer Answers Collecting",
    "agentbus.send.envelope": "PublishOptions",
    "agentbus.send.publisher": "Publisher",
    "agentbus.send.stored": "Stored",
    "agentbus.send.streaming": "Restarted",
    "agentbus.settings": "AgentSettings BusSettings PublisherSettings RetentionSettings",
    "agentbus.status.values": "AddressStatus BusStatus ChannelStatus",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))


__all__ = [
    "AddressStatus",
    "Agent",
    "AgentBusError",
    "AgentInfo",
    "AgentInstance",
    "AgentSettings",
    "AlreadySettled",
    "Answer",
    "Answers",
    "Binding",
    "BodyNotSerializable",
    "BodyTooLarge",
    "BrokerError",
    "BrokerOutOfMemory",
    "BrokerRefused",
    "BrokerUnavailable",
    "BulkRetry",
    "Bus",
    "BusSettings",
    "BusStatus",
    "CallNext",
    "CancelRefused",
    "Cancelled",
    "CancelledPlace",
    "ChannelStatus",
    "Collecting",
    "ConfigurationError",
    "Context",
    "Conversation",
    "ConversationTrace",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetterFilter",
    "DeadLetterPage",
    "DeadLetterResolved",
    "DeadLetters",
    "Defer",
    "Delivery",
    "DeliveryError",
    "DurabilityUnavailable",
    "EmitOptions",
    "Event",
    "Events",
    "GroupMissing",
    "HistoryEntry",
    "HistoryFilters",
    "HistoryGap",
    "HistoryPage",
    "InboxView",
    "InvalidTopic",
    "InvalidValue",
    "KeyConflict",
    "LastMessage",
    "LoopDetected",
    "MalformedMessage",
    "Message",
    "Middleware",
    "NoBroker",
    "NoSuchAddress",
    "NoSuchAgent",
    "NoSuchCursor",
    "NoSuchDeadLetter",
    "NoSuchMessage",
    "NoSuchReceipts",
    "NoSuchSchedule",
    "NotYourConversation",
    "PartsMissing",
    "Policy",
    "PolicyConflict",
    "ProjectDeleted",
    "ProjectRemoval",
    "PublishError",
    "PublishOptions",
    "PublishRefused",
    "PublishTimeout",
    "Publisher",
    "PublisherClosed",
    "PublisherSettings",
    "QueueFull",
    "Receipt",
    "ReceiptError",
    "ReceiptTimeout",
    "RefusedCopy",
    "Reject",
    "ReplayFilters",
    "ReplayProgress",
    "Replayed",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "Restarted",
    "RetentionSettings",
    "Retry",
    "Schedule",
    "ScheduleOptions",
    "Sent",
    "SentTo",
    "StaleDelivery",
    "Stored",
    "StreamRestarted",
    "Subscriber",
    "Topic",
    "Trace",
    "Turn",
    "UnknownRecipients",
    "UnsafeBroker",
    "Watch",
    "WatchGap",
    "WrongKeyType",
]
