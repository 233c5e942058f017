"""Agents: a name, handlers for message types, and how to run them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agentbus.errors import ConfigurationError, InvalidTopic, InvalidValue
from agentbus.message.durations import Duration, seconds
from agentbus.message.policy import Retry
from agentbus.message.topics import (
    AGENT,
    CAPABILITY,
    CHANNEL_KINDS,
    Topic,
    check_message_type,
    check_name,
    is_topic,
    parse_scope,
    parse_topic,
)
from agentbus.receive.declared_bindings import DeclaredBindings
from agentbus.receive.delivery import Delivery
from agentbus.receive.following import Following, Start, cursor_start
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

    ``pools`` are further names whose work it shares with other agents; so are ``capabilities``, which say
    what it can do: ``capability.<name>``, and by which others find it in the registry. ``concurrency`` is
    the number of handlers that run at one time. Middleware goes around every handler, outermost first.
    """

    def __init__(
        self,
        name: str,
        *,
        type: str | None = None,
        pools: Sequence[str] = (),
        capabilities: Sequence[str] = (),
        concurrency: int = 10,
        retry: Retry | None = None,
        middleware: Sequence[Middleware] = (),
        settings: AgentSettings | None = None,
    ) -> None:
        self.name = check_name(name, "name")
        self.type = type or name
        self.pools = _names(pools, "pools")
        self.capabilities = _names(capabilities, "capabilities")
        if not isinstance(concurrency, int) or not 1 <= concurrency <= _MOST_CONCURRENCY:
            raise InvalidValue("concurrency", f"must be from 1 to {_MOST_CONCURRENCY}, not {concurrency!r}")
        self.concurrency = concurrency
        self.retry = retry or Retry()
        self.middleware = tuple(middleware)
        self.settings = settings or AgentSettings()
        #: For the application: connections, models, whatever handlers share.
        self.state: dict[str, Any] = {}
        self._handlers: dict[str, Handler] = {}
        #: Channel to handlers by message type.
        self._channels: dict[str, dict[str, Handler]] = {}
        self._following: dict[str, Following] = {}
        self._listeners: list[Callable[[], None]] = []
        #: The durable wildcards declared so far; see `bind`.
        self.bindings = DeclaredBindings(self.name)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The inboxes it serves: its own, its pools' and those of its capabilities."""
        named = [f"{AGENT}.{name}" for name in (self.name, *self.pools)]
        able = [f"{CAPABILITY}.{name}" for name in self.capabilities]
        return tuple(dict.fromkeys((*named, *able)))

    @property
    def handlers(self) -> dict[str, Handler]:
        """Handlers of the inbox by message type."""
        return dict(self._handlers)

    @property
    def all_handlers(self) -> list[Handler]:
        """Every handler, those of channels too."""
        return [*self._handlers.values(), *(each for on in self._channels.values() for each in on.values())]

    @property
    def following(self) -> dict[str, Following]:
        """The channels it reads, by address."""
        return dict(self._following)

    def on(
        self,
        topic: str | Topic[Any, Any] = ANY_TYPE,
        *,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        start: Start | None = None,
        concurrency: int | None = None,
        include_own: bool = False,
    ) -> Callable[[Function], Function]:
        """Register a handler for a message type of the inbox, or for a topic of a channel.

        ``task``, or nothing for whatever has no handler of its own; ``channel.design.note`` or
        ``channel.design`` subscribes, also while the agent is being served. What the handler takes is
        decided by annotation: a `Context`, a `Message`, a `Delivery`, and one parameter for the body,
        validated as its type. A plain ``def`` runs in a thread. ``timeout`` counts as a failure when it
        passes.

        For a channel: ``start`` says where the agent's cursor begins when it has none yet: ``now`` (the
        default), ``beginning``, a time, or an entry id. Messages are handled one after the other unless
        ``concurrency`` is more than 1; those that the agent sent itself are left out unless ``include_own``.
        Raises `ConfigurationError` for a second handler of the same topic, `InvalidValue` and `InvalidTopic`.
        """
        body = topic.body if isinstance(topic, Topic) else None
        address, name = _place_of(topic)
        limit = None if timeout is None else seconds(timeout, "timeout")
        if limit == 0:
            raise InvalidValue("timeout", "must be longer than zero")
        following = None
        if address is None:
            _refuse_for_inbox(start=start, concurrency=concurrency, include_own=include_own or None)
        else:
            before = self._following.get(address)
            following = Following.joined(before, address, cursor_start(start), concurrency)

        def register(function: Function) -> Function:
            handler = bind(function, name, retry, limit, body, include_own)
            self._add(address, name, handler)
            if following is not None:
                self._following[following.address] = following
            self._tell_changed()
            return function

        return register

    def off(self, topic: str | Topic[Any, Any]) -> None:
        """Take a handler away, also while the agent is being served.

        What runs comes to its end. Without its last handler a channel is not read any more; the cursor stays,
        and a later `on` goes on where it stood. Raises `ConfigurationError` when there is no such handler.
        """
        address, name = _place_of(topic)
        handlers = self._handlers if address is None else self._channels.get(address, {})
        if handlers.pop(name, None) is None:
            raise ConfigurationError(f"agent {self.name} has no handler for {str(topic)!r}")
        if address is not None and not handlers:
            del self._channels[address], self._following[address]
        self._tell_changed()

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after each change of handlers; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def bind(self, pattern: str, *, everything: bool = False) -> Awaitable[None]:
        """Have what matches a pattern, wherever it is published, copied into this agent's own inbox.

        ``agent.*.status``: ``*`` is one part of the topic, ``>`` the rest. Handlers are found by message
        type, as for any message. Declared before serving, it holds when the agent is ready. Declared while
        it is served, awaiting the result returns when it holds everywhere, after about a second. It stays
        when the agent stops, until `unbind`. Raises `InvalidTopic` for what is no pattern.
        """
        return self.bindings.bind(pattern, everything)

    def unbind(self, pattern: str) -> Awaitable[None]:
        """Take a binding back; awaited while served, it returns when nothing is copied any more."""
        return self.bindings.unbind(pattern)

    def handler_for(self, message_type: str) -> Handler | None:
        """Return the handler of a message type of the inbox, the catch-all, or None."""
        return self._handlers.get(message_type) or self._handlers.get(ANY_TYPE)

    def reads(self, address: str) -> bool:
        """Return whether it has subscribed to a channel, or to some of its topics."""
        return address in self._channels

    def channel_handler(self, address: str, message_type: str) -> Handler | None:
        """Return the handler of a channel's topic, the one for the whole channel, or None."""
        handlers = self._channels.get(address)
        return (handlers and (handlers.get(message_type) or handlers.get(ANY_TYPE))) or None

    def _add(self, address: str | None, name: str, handler: Handler) -> None:
        handlers = self._handlers if address is None else self._channels.setdefault(address, {})
        if name in handlers:
            topic = name if address is None else f"{address}.{name}"
            raise ConfigurationError(f"agent {self.name} has a handler for {topic!r} already")
        handlers[name] = handler

    def _tell_changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def __repr__(self) -> str:
        return f"<Agent {self.name} for {', '.join(self._handlers) or 'nothing'}>"


def _names(given: Sequence[str], field: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InvalidValue(field, f"must be a list of names, not the text {given!r}")
    return tuple(dict.fromkeys(check_name(name, field) for name in given))


def _place_of(topic: str | Topic[Any, Any]) -> tuple[str | None, str]:
    """Return the channel, or None for the inbox, and the message type."""
    if isinstance(topic, Topic):
        destination = parse_topic(topic.text)
        return (destination.address if destination.is_channel else None), destination.message_type
    if callable(topic):
        raise ConfigurationError('write @agent.on("task") or @agent.on(), with the parentheses')
    if topic == ANY_TYPE:
        return None, topic
    kind, dot, _ = topic.partition(".") if isinstance(topic, str) else ("", "", "")
    if dot and kind in CHANNEL_KINDS:
        address, message_type = parse_scope(topic)
        return address, message_type or ANY_TYPE
    if isinstance(topic, str) and is_topic(topic):
        # A type may be written like that, too; nobody ever meant it, and such a handler is never called.
        raise InvalidTopic(
            "topic",
            f"{topic!r} is the topic of an inbox; a handler is for what comes to its own agent: "
            f"{topic.split('.', 2)[2]!r}",
        )
    return None, check_message_type(topic, "topic")


def _refuse_for_inbox(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidValue(name, "is for channels, channel.<name>.<type>; an inbox has no such thing")
