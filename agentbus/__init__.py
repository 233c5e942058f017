"""agentbus: the message bus that AI-agent processes use to work together."""

from agentbus.bus import Bus
from agentbus.errors import (
    AgentBusError,
    AlreadySettled,
    BodyNotSerializable,
    BodyTooLarge,
    BrokerError,
    BrokerOutOfMemory,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    Defer,
    DeliveryError,
    DurabilityUnavailable,
    GroupMissing,
    InvalidTopic,
    InvalidValue,
    KeyConflict,
    MalformedMessage,
    NoBroker,
    NoSuchAgent,
    PublisherClosed,
    PublishError,
    PublishRefused,
    PublishTimeout,
    QueueFull,
    Reject,
    RequestError,
    RequestFailed,
    RequestTimeout,
    StaleDelivery,
    UnsafeBroker,
    WrongKeyType,
)
from agentbus.events import Event, Events
from agentbus.message.message import Message
from agentbus.message.policy import Retry
from agentbus.message.topics import Topic
from agentbus.receive.agent import Agent, CallNext, Middleware
from agentbus.receive.context import Context
from agentbus.receive.delivery import Delivery
from agentbus.receive.subscriber import Subscriber
from agentbus.send.envelope import PublishOptions
from agentbus.send.publisher import Publisher
from agentbus.send.stored import Stored
from agentbus.settings import AgentSettings, BusSettings, PublisherSettings, RetentionSettings

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentBusError",
    "AgentSettings",
    "AlreadySettled",
    "BodyNotSerializable",
    "BodyTooLarge",
    "BrokerError",
    "BrokerOutOfMemory",
    "BrokerRefused",
    "BrokerUnavailable",
    "Bus",
    "BusSettings",
    "CallNext",
    "ConfigurationError",
    "Context",
    "Defer",
    "Delivery",
    "DeliveryError",
    "DurabilityUnavailable",
    "Event",
    "Events",
    "GroupMissing",
    "InvalidTopic",
    "InvalidValue",
    "KeyConflict",
    "MalformedMessage",
    "Message",
    "Middleware",
    "NoBroker",
    "NoSuchAgent",
    "PublishError",
    "PublishOptions",
    "PublishRefused",
    "PublishTimeout",
    "Publisher",
    "PublisherClosed",
    "PublisherSettings",
    "QueueFull",
    "Reject",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "RetentionSettings",
    "Retry",
    "StaleDelivery",
    "Stored",
    "Subscriber",
    "Topic",
    "UnsafeBroker",
    "WrongKeyType",
]
