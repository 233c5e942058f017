"""What every incarnation of a process shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentbus.broker.carry import Carrier
from agentbus.broker.connection import Broker
from agentbus.broker.inbox import Inbox
from agentbus.broker.log_watch import LogWatch
from agentbus.events import Events
from agentbus.receive.lease import Heart
from agentbus.receive.suspects import SuspectGate
from agentbus.settings import RetentionSettings

if TYPE_CHECKING:
    from agentbus.broker.retention import ChannelRetention, InboxRetention


@dataclass(frozen=True, slots=True)
class Grounds:
    """The means of one process, made by the bus."""

    broker: Broker
    prefix: str
    heart: Heart
    events: Events
    gate: SuspectGate
    retention: RetentionSettings
    key_window_ms: int
    carrier: Carrier
    #: Says when the log of a channel has grown.
    watch: LogWatch

    def retention_of(self, inbox: Inbox) -> InboxRetention:
        """Return what trims an inbox."""
        # A process that only sends trims nothing.
        from agentbus.broker.retention import InboxRetention

        return InboxRetention(self.broker, inbox, self.retention, self.events)

    def channel_retention_of(self, address: str) -> ChannelRetention:
        """Return what trims a channel."""
        from agentbus.broker.retention import ChannelRetention

        return ChannelRetention(self.broker, self.prefix, address, self.retention, self.events)
