"""Agents: a name, handlers for message types, and how to run them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agentbus.errors import ConfigurationError, InvalidTopic, InvalidValue
from agentbus.message.durations import Duration, seconds
from agentbus.message.policy import Retry
from agentbus.message.topics import Topic, check_message_type, check_name, parse_topic
from agentbus.receive.delivery import Delivery
from agentbus.receive.handlers import Handler, bind
from agentbus.settings import AgentSettings

Function = TypeVar("Function", bound=Callable[..., Any])
#: Goes around every handler call: ``async (delivery, call_next)``; returns what the handler returned.
CallNext = Callable[[Delivery], Awaitable[Any]]
Middleware = Callable[[Delivery, CallNext], Awaitable[Any]]

#: The message type of a handler for everything that has none of its own.
ANY_TYPE = "*"
_MOST_CONCURRENCY = 10_000


class Agent:
    """A participant on the bus: what it is called and what it does with which message.

    ``pools`` are further names whose work it shares with other agents. ``concurrency`` is the number of
    handlers that run at one time. Middleware goes around every handler, outermost first. ``capabilities`` are
    names of what it can do; others find it by them in the registry.
    """

    def __init__(
        self,
        name: str,
        *,
        type: str | None = None,
        pools: Sequence[str] = (),
        concurrency: int = 10,
        retry: Retry | None = None,
        middleware: Sequence[Middleware] = (),
        settings: AgentSettings | None = None,
        capabilities: Sequence[str] = (),
    ) -> None:
        self.name = check_name(name, "name")
        self.type = type or name
        if isinstance(pools, str):
            raise InvalidValue("pools", f"must be a list of names, not the text {pools!r}")
        self.pools = tuple(check_name(pool, "pools") for pool in pools)
        if not isinstance(concurrency, int) or not 1 <= concurrency <= _MOST_CONCURRENCY:
            raise InvalidValue("concurrency", f"must be from 1 to {_MOST_CONCURRENCY}, not {concurrency!r}")
        self.concurrency = concurrency
        self.retry = retry or Retry()
        self.middleware = tuple(middleware)
        self.settings = settings or AgentSettings()
        if isinstance(capabilities, str):
            raise InvalidValue("capabilities", f"must be a list of names, not the text {capabilities!r}")
        named = (check_name(capability, "capabilities") for capability in capabilities)
        #: What it can do, as others find it by: ``bus.agents(capability="review")``.
        self.capabilities = tuple(dict.fromkeys(named))
        #: For the application: connections, models, whatever handlers share.
        self.state: dict[str, Any] = {}
        self._handlers: dict[str, Handler] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """The inboxes it serves: its own and its pools'."""
        names = dict.fromkeys((self.name, *self.pools))
        return tuple(f"agent.{name}" for name in names)

    @property
    def handlers(self) -> dict[str, Handler]:
        """Handlers by message type."""
        return dict(self._handlers)

    def on(
        self,
        message_type: str | Topic[Any, Any] = ANY_TYPE,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
    ) -> Callable[[Function], Function]:
        """Register a handler for a message type; without one, for everything that has no handler.

        What the handler takes is decided by annotation: a `Context`, a `Message`, a `Delivery`, and one
        parameter for the body, validated as its type. A plain ``def`` runs in a thread. ``timeout`` counts
        as a failure when it passes.
        """
        body = message_type.body if isinstance(message_type, Topic) else None
        name = _type_of(message_type)
        limit = None if timeout is None else seconds(timeout, "timeout")
        if limit == 0:
            raise InvalidValue("timeout", "must be longer than zero")

        def register(function: Function) -> Function:
            if name in self._handlers:
                raise ConfigurationError(f"agent {self.name} has a handler for {name!r} already")
            self._handlers[name] = bind(function, name, retry, limit, body)
            return function

        return register

    def handler_for(self, message_type: str) -> Handler | None:
        """Return the handler of a message type, the catch-all, or None."""
        return self._handlers.get(message_type) or self._handlers.get(ANY_TYPE)

    def __repr__(self) -> str:
        return f"<Agent {self.name} for {', '.join(self._handlers) or 'nothing'}>"


def _type_of(message_type: str | Topic[Any, Any]) -> str:
    if isinstance(message_type, Topic):
        destination = parse_topic(message_type.text)
        if destination.is_channel:
            raise InvalidTopic(
                "topic", f"{destination.topic!r}: agents cannot subscribe to channels in this version"
            )
        return destination.message_type
    if callable(message_type):
        raise ConfigurationError('write @agent.on("task") or @agent.on(), with the parentheses')
    return message_type if message_type == ANY_TYPE else check_message_type(message_type)
