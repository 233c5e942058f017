"""Handlers: what a function wants, found out once when it is registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from agentbus.errors import ConfigurationError, InvalidValue
from agentbus.message.codec import check_annotation, validate_content
from agentbus.message.message import Message
from agentbus.message.policy import Retry
from agentbus.receive.context import Context
from agentbus.receive.delivery import Delivery

#: Takes one parameter's value from a delivery: (delivery, maker of contexts).
Extractor = Callable[..., Any]
#: Builds the arguments of one call.
Arguments = Callable[[Delivery, "Callable[[Delivery], Context]"], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function."""

    function: Callable[..., Any]
    message_type: str
    #: None: the policy of the address, else the agent's.
    retry: Retry | None
    #: Seconds; None = no limit.
    timeout: float | None
    #: False: a plain function, run in a thread, or a generator.
    is_async: bool
    #: It yields the parts of its answer.
    is_generator: bool
    arguments: Arguments
    #: True for a coroutine function that takes the body as it is and nothing else, without a timeout: it
    #: is called without any building of arguments.
    plain: bool
    #: On a channel: whether it takes what its own agent sent.
    include_own: bool = False


def bind(
    function: Callable[..., Any],
    message_type: str,
    retry: Retry | None,
    timeout: float | None,
    body: type[Any] | None,
    include_own: bool = False,
) -> Handler:
    """Return the handler for a function; raises `ConfigurationError` when its parameters make no sense."""
    positional, named = _extractors(function, body)
    is_async = _is(inspect.iscoroutinefunction, function)
    if _is(inspect.isgeneratorfunction, function):
        raise ConfigurationError(
            f"handler {_name(function)}: a generator that yields parts of an answer is an async def"
        )
    return Handler(
        function,
        message_type,
        retry,
        timeout,
        is_async,
        _is(inspect.isasyncgenfunction, function),
        _builder(positional, named),
        plain=is_async and timeout is None and positional == (_content,) and not named,
        include_own=include_own,
    )


def _is(kind: Callable[[Any], bool], function: Callable[..., Any]) -> bool:
    """Whether a function, or what is called when an object is, is of a kind."""
    return kind(function) or kind(vars(type(function)).get("__call__"))


def _extractors(
    function: Callable[..., Any], body: type[Any] | None
) -> tuple[tuple[Extractor, ...], dict[str, Extractor]]:
    """Return how to fill each parameter: positional ones in order, keyword-only ones by name."""
    hints = _hints(function)
    positional: list[Extractor] = []
    named: dict[str, Extractor] = {}
    body_name: str | None = None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigurationError(f"handler {_name(function)}: *{name} cannot be filled")
        annotation = hints.get(name)
        extractor = _SPECIAL.get(annotation) if isinstance(annotation, type) else None
        if extractor is None:
            if body_name is not None:
                raise ConfigurationError(
                    f"handler {_name(function)}: {name!r} would be a second body beside {body_name!r}; "
                    "annotate it as Context, Message or Delivery"
                )
            body_name = name
            try:
                extractor = _body_extractor(annotation if annotation is not None else body)
            except InvalidValue as error:
                raise ConfigurationError(f"handler {_name(function)}: {name!r}: {error}") from error
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = extractor
        else:
            positional.append(extractor)
    return tuple(positional), named


def _builder(positional: tuple[Extractor, ...], named: dict[str, Extractor]) -> Arguments:
    def build(
        delivery: Delivery, context: Callable[[Delivery], Context]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (
            tuple([extract(delivery, context) for extract in positional]),
            {name: extract(delivery, context) for name, extract in named.items()},
        )

    return build


def _content(delivery: Delivery, context: Any) -> Any:
    return delivery.message.content


def _body_extractor(annotation: Any) -> Extractor:
    if annotation is None or annotation is Any or annotation is object:
        return _content
    # A type that cannot be validated is told where it is written, not with every message.
    check_annotation(annotation)

    def validated(delivery: Delivery, context: Any) -> Any:
        return validate_content(delivery.message.content, annotation)

    return validated


_SPECIAL: dict[Any, Extractor] = {
    Context: lambda delivery, context: context(delivery),
    Message: lambda delivery, context: delivery.message,
    Delivery: lambda delivery, context: delivery,
}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"handler {_name(function)}: the annotation {error.name!r} is not known where it is defined"
        ) from error
    except TypeError:
        # A callable object without annotations of its own.
        return get_type_hints(type(function).__call__, include_extras=True)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
