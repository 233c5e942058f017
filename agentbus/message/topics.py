"""Topics: ``kind.name.type``, and the addresses they point at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from agentbus.errors import InvalidTopic, InvalidValue

Body = TypeVar("Body")
Reply = TypeVar("Reply")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
_LONGEST_TYPE = 200
#: Kinds of address that hold work for agents and can be published to.
KINDS = ("agent",)
#: Kinds that the grammar reserves; publishing to them is refused by name, not as a typing mistake.
RESERVED_KINDS = ("channel", "project", "system", "dm", "reply")


@dataclass(frozen=True, slots=True)
class Destination:
    """What a topic means: an address and a message type."""

    topic: str
    #: ``agent.<name>``: the unit that shares one hash tag in Redis.
    address: str
    name: str
    message_type: str


@dataclass(frozen=True, slots=True)
class Topic(Generic[Body, Reply]):
    """A typed end: a topic with the type of its body and of its reply.

    ``Topic("agent.reviewer.task", Review, reply=Verdict)`` can be given wherever a topic text can;
    a body of another type is then refused before anything is sent.
    """

    text: str
    body: type[Body]
    reply: type[Reply] | None = None

    def __post_init__(self) -> None:
        parse_topic(self.text)

    def __str__(self) -> str:
        return self.text


def check_name(name: str, field: str = "name") -> str:
    """Return a name of an agent or pool, or raise `InvalidValue` naming ``field``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValue(
            field,
            f"{name!r} is not a name: 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter or digit",
        )
    return name


def check_message_type(message_type: str, field: str = "message_type") -> str:
    """Return a message type such as ``task`` or ``task.urgent``, or raise `InvalidValue`."""
    valid = isinstance(message_type, str) and len(message_type) <= _LONGEST_TYPE
    if not valid or not _TYPE.fullmatch(message_type):
        raise InvalidValue(field, f"{message_type!r} is not a message type such as task or task.urgent")
    return message_type


def parse_topic(topic: str) -> Destination:
    """Split ``agent.<name>.<type>``; raise `InvalidTopic` that says which part is wrong."""
    if not isinstance(topic, str):
        raise InvalidTopic("topic", f"must be text such as agent.reviewer.task, not {topic!r}")
    return _split(topic)


@lru_cache(maxsize=4096)
def _split(topic: str) -> Destination:
    if "*" in topic or ">" in topic:
        raise InvalidTopic("topic", f"{topic!r} has a wildcard; a message goes to one address")
    parts = topic.split(".", 2)
    if len(parts) < 3:
        raise InvalidTopic("topic", f"{topic!r} needs three parts: agent.<name>.<type>")
    kind, name, message_type = parts
    _check_kind(topic, kind)
    try:
        check_name(name, "topic")
        check_message_type(message_type, "topic")
    except InvalidValue as error:
        raise InvalidTopic("topic", f"in {topic!r}, {error.problem}") from None
    return Destination(topic, f"{kind}.{name}", name, message_type)


def parse_address(address: str) -> str:
    """Return ``agent.<name>`` after checking it; a bare name means an agent's inbox."""
    kind, dot, name = address.partition(".")
    if not dot:
        return f"agent.{check_name(address, 'address')}"
    _check_kind(address, kind)
    return f"{kind}.{check_name(name, 'address')}"


def parse_scope(text: str) -> tuple[str, str]:
    """Split an address or a topic into address and message type, which is empty for an address."""
    if text.count(".") < 2:
        return parse_address(text), ""
    destination = parse_topic(text)
    return destination.address, destination.message_type


def _check_kind(topic: str, kind: str) -> None:
    if kind in RESERVED_KINDS:
        raise InvalidTopic("topic", f"{topic!r}: {kind!r} addresses cannot be published to in this version")
    if kind not in KINDS:
        raise InvalidTopic("topic", f"{topic!r} begins with {kind!r}; topics begin with agent.")
