"""What the calls of a bus share.

Rooms that only some calls need are loaded when such a call is made, here and in the files beside this one:
all of them together take as long to load as everything else.
"""

from __future__ import annotations

from collections.abc import (
    Mapping,
)
from typing import TYPE_CHECKING, Any, cast

from agentbus.errors import ConfigurationError
from agentbus.events import Events
from agentbus.facade.rooms import Rooms
from agentbus.send.envelope import AnyTopic, Outgoing, PublishOptions, Sender, compose
from agentbus.send.publisher import Publisher
from agentbus.settings import (
    BusSettings,
)

if TYPE_CHECKING:
    from agentbus.recipients.sending import Sending


class Calls:
    """Who speaks, with which settings, through which rooms."""

    settings: BusSettings
    #: What happened that nobody asked for; see `agentbus.events`.
    events: Events
    _sender: Sender
    _rooms: Rooms | None

    @property
    def rooms(self) -> Rooms:
        """The open parts; raises `ConfigurationError` when the bus is not open."""
        if self._rooms is None:
            raise ConfigurationError("the bus is not open; write `async with Bus(...) as bus:`")
        return self._rooms

    @property
    def publisher(self) -> Publisher:
        """The way out."""
        return self.rooms.publisher

    def _sending(self) -> Sending:
        from agentbus.broker.receipts import ReceiptStore
        from agentbus.fleet.directory import Directory
        from agentbus.recipients.receipts import Receipts
        from agentbus.recipients.sending import Sending

        rooms = self.rooms
        return Sending(
            rooms.publisher,
            ReceiptStore(rooms.broker, self.settings.prefix),
            Receipts(rooms.broker, self.settings.prefix),
            Directory(rooms.registry).check_known,
            self.settings.publisher.message_bytes,
        )

    def _composed(self, topic: AnyTopic, body: Any, options: Mapping[str, Any]) -> Outgoing:
        given = cast("PublishOptions", options)
        return compose(self._sender, topic, body, given, self.settings.publisher.message_bytes)
