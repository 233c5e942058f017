"""The door to live events: emit and watch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypedDict

from agentbus.broker.connection import Broker
from agentbus.broker.live import Listener, emit
from agentbus.errors import InvalidValue
from agentbus.events import Events
from agentbus.live.watch import Watch
from agentbus.message.patterns import parse_pattern
from agentbus.message.topics import Destination, Topic


class EmitOptions(TypedDict, total=False):
    """What can be said about a live event besides its topic and body."""

    #: What the sender knew when it wrote the body.
    context: Mapping[str, Any]
    #: Anything else about the body.
    metadata: Mapping[str, Any]
    #: The conversation.
    correlation_id: str
    #: The message that caused this one.
    causation_id: str
    session_id: str
    project: str
    #: W3C trace context.
    trace: Mapping[str, str]
    #: Further envelope fields of your own.
    extra: Mapping[str, Any]


class Composed(Protocol):
    """A message that is ready to travel."""

    destination: Destination
    text: bytes


#: From a topic, a body and options to what travels.
Compose = Callable[[str | Topic[Any, Any], Any, EmitOptions], Composed]


class Live:
    """Sends and watches; one per bus."""

    def __init__(self, broker: Broker, prefix: str, events: Events, compose: Compose) -> None:
        self._broker = broker
        self._prefix = prefix
        self._events = events
        self._compose = compose
        self._watches: set[Watch] = set()

    async def emit(self, topic: str | Topic[Any, Any], body: Any, options: EmitOptions) -> int:
        """Send one event; see `Bus.emit`."""
        unknown = options.keys() - EmitOptions.__annotations__.keys()
        if unknown:
            known = sorted(EmitOptions.__annotations__)
            raise InvalidValue(
                sorted(unknown)[0], f"is no option of a live event, which nobody keeps; those are {known}"
            )
        outgoing = self._compose(topic, body, options)
        return await emit(self._broker, self._prefix, outgoing.destination.topic, outgoing.text)

    def watch(
        self,
        pattern: str,
        stored: Callable[[], Awaitable[None]] | None,
        everything: bool,
        buffer: int,
    ) -> Watch:
        """Return a watch; see `Bus.watch`. ``stored`` waits until publishers know of one that sees them."""
        listener = Listener(
            self._broker, self._prefix, parse_pattern(pattern, everything=everything), stored is not None
        )
        return Watch(listener, self._events, buffer, stored or _at_once, self._watches)

    async def close(self) -> None:
        """End every watch that is open."""
        for watch in tuple(self._watches):
            await watch.close()


async def _at_once() -> None:
    await asyncio.sleep(0)
