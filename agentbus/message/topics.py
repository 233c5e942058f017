"""Topics: ``kind.name.type``, and the addresses they point at.

An address is an inbox (``agent.<name>``, ``capability.<name>``: work, handled by one agent each) or a channel
(``channel.<name>``, ``project.<id>``, ``system.<area>``: a log that many read). What two agents say to each
other is a log as well: ``dm:<a>:<b>``.
"""

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
#: An inbox by the name of who serves it, and one by what whoever serves it can do.
AGENT, CAPABILITY = "agent", "capability"
#: Kinds of address that hold work: inboxes. Each message in one is handled by one agent.
INBOX_KINDS = (AGENT, CAPABILITY)
_RECIPIENT_FIELDS = {AGENT: "to_agent", CAPABILITY: "capability"}
#: Kinds of address that are a log: everybody who looks sees every message.
CHANNEL_KINDS = ("channel", "project", "system")
#: Begins the address of what two agents say to each other: ``dm:<a>:<b>``, in alphabetical order. A log, too.
CONVERSATION = "dm:"
#: Kinds that the grammar reserves; publishing to them is refused by name, not as a typing mistake.
RESERVED_KINDS = ("reply",)


@dataclass(frozen=True, slots=True)
class Destination:
    """What a topic means: an address and a message type."""

    topic: str
    #: ``agent.<name>``, ``channel.<name>``, …: the unit that shares one hash tag in Redis.
    address: str
    name: str
    message_type: str
    #: Whether the address is a channel (a log) and not an inbox.
    is_channel: bool
    #: The field of the envelope that names the recipient, and what it holds.
    recipient: tuple[str, str]


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
    """Return a name of an agent, pool or capability, or raise `InvalidValue` naming ``field``."""
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
    """Return where ``<kind>.<name>.<type>`` leads; raise `InvalidTopic` that says which part is wrong.

    The only place that decides which address a topic means, and of what kind that is.
    """
    if not isinstance(topic, str):
        raise InvalidTopic("topic", f"must be text such as agent.reviewer.task, not {topic!r}")
    return _split(topic)


def parse_conversation_topic(topic: str) -> Destination:
    """Return where ``dm:<a>:<b>.<type>`` leads; any other topic as `parse_topic` does.

    For direct messages alone, which also go to an inbox: nobody else may write into a conversation.
    """
    if not topic.startswith(CONVERSATION):
        return parse_topic(topic)
    conversation, _, message_type = topic.partition(".")
    address = parse_conversation(conversation)
    kind = check_message_type(message_type, "topic")
    return Destination(topic, address, address, kind, True, ("channel", address))


def conversation_of(one: str, other: str) -> str:
    """Return the conversation of two agents; raises `InvalidValue` for one that talks to itself."""
    if check_name(one, "agent") == check_name(other, "agent"):
        raise InvalidValue("to", f"{one} is the sender itself; a conversation has two agents")
    return CONVERSATION + ":".join(sorted((one, other)))


def parse_conversation(text: str, field: str = "address") -> str:
    """Return ``dm:<a>:<b>`` with its agents in order; raises `InvalidTopic` that says what is wrong."""
    names = text.removeprefix(CONVERSATION).split(":")
    if not text.startswith(CONVERSATION) or len(names) != 2:
        raise InvalidTopic(field, f"{text!r} is no conversation; that is dm:<agent>:<other agent>")
    try:
        return conversation_of(*names)
    except InvalidValue as error:
        raise InvalidTopic(field, f"in {text!r}, {error.problem}") from None


def parties_of(conversation: str) -> tuple[str, str]:
    """Return the two agents of a conversation that was checked."""
    _, one, other = conversation.split(":")
    return one, other


def is_conversation(address: str) -> bool:
    """Whether an address is what two agents say to each other."""
    return address.startswith(CONVERSATION)


@lru_cache(maxsize=4096)
def _split(topic: str) -> Destination:
    if "*" in topic or ">" in topic:
        raise InvalidTopic("topic", f"{topic!r} has a wildcard; a message goes to one address")
    if is_conversation(topic):
        raise InvalidTopic(
            "topic", f"{topic!r} is a conversation; only `bus.dm(to, body)` writes there, as one of the two"
        )
    parts = topic.split(".", 2)
    if len(parts) < 3:
        raise InvalidTopic(
            "topic", f"{topic!r} needs three parts: agent.<name>.<type>, or channel.<name>.<type>"
        )
    kind, name, message_type = parts
    _check_kind(topic, kind)
    try:
        check_name(name, "topic")
        check_message_type(message_type, "topic")
    except InvalidValue as error:
        raise InvalidTopic("topic", f"in {topic!r}, {error.problem}") from None
    address, is_log = f"{kind}.{name}", kind in CHANNEL_KINDS
    recipient = ("channel", address) if is_log else (_RECIPIENT_FIELDS[kind], name)
    return Destination(topic, address, name, message_type, is_log, recipient)


def is_topic(text: str) -> bool:
    """Whether a text names an address and a type, and not a type alone."""
    try:
        _split(text)
    except InvalidTopic:
        return False
    return True


def parse_address(address: str, field: str = "address") -> str:
    """Return an inbox, a channel or a conversation after checking it; a bare name means an agent's inbox."""
    if not isinstance(address, str):
        raise InvalidTopic(field, f"must be text such as agent.reviewer, not {address!r}")
    if "*" in address or ">" in address:
        raise InvalidTopic(field, f"{address!r} has a wildcard; give one address")
    if is_conversation(address):
        return parse_conversation(address, field)
    kind, dot, name = address.partition(".")
    if not dot:
        return f"{AGENT}.{check_name(address, field)}"
    _check_kind(address, kind, field)
    return f"{kind}.{check_name(name, field)}"


def parse_scope(text: str) -> tuple[str, str]:
    """Split an address or a topic into address and message type, which is empty for an address."""
    if text.count(".") < 2:
        return parse_address(text), ""
    destination = parse_topic(text)
    return destination.address, destination.message_type


def parse_inbox(address: str, field: str = "address") -> str:
    """Return an inbox after checking it; raise `InvalidTopic` for a channel, which holds no work."""
    found = parse_address(address, field)
    if is_channel(found):
        raise InvalidTopic(
            field,
            f"{found} is a channel: a log that nobody takes work from; this needs an inbox, agent.<name>",
        )
    return found


def is_inbox(address: str) -> bool:
    """Whether an address is one of those that hold work."""
    return address.partition(".")[0] in INBOX_KINDS


def short_address(address: str) -> str:
    """Return the shortest text that means an address where one is asked for: an agent's is its name."""
    return address.removeprefix(f"{AGENT}.")


def is_channel(address: str) -> bool:
    """Whether an address that was checked is a log, as a channel or a conversation is, and not an inbox."""
    return is_conversation(address) or address.partition(".")[0] in CHANNEL_KINDS


def _check_kind(text: str, kind: str, field: str = "topic") -> None:
    if kind == "dm":
        raise InvalidTopic(field, f"{text!r}: a conversation is dm:<agent>:<other agent>; send with `bus.dm`")
    if kind in RESERVED_KINDS:
        raise InvalidTopic(field, f"{text!r}: {kind!r} addresses cannot be published to in this version")
    if kind not in INBOX_KINDS and kind not in CHANNEL_KINDS:
        kinds = ", ".join(f"{known}." for known in (*INBOX_KINDS, *CHANNEL_KINDS))
        whatever = "topics" if field == "topic" else "addresses"
        raise InvalidTopic(field, f"{text!r} begins with {kind!r}; {whatever} begin with {kinds}")
