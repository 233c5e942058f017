"""Who a message is for, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from agentbus.errors import InvalidTopic, InvalidValue
from agentbus.message.topics import (
    check_message_type,
    check_name,
    is_channel,
    is_conversation,
    is_topic,
    parse_address,
)

#: Every copy names all recipients: the size of what is sent grows with the square of their number.
MOST_RECIPIENTS = 1_000


def check_recipients(to: Sequence[str]) -> tuple[str, ...]:
    """Return the names of recipients; raises `InvalidValue` that says which one is wrong."""
    if isinstance(to, (str, bytes)) or not isinstance(to, Sequence):
        raise InvalidValue("to", f"must be a list of names, not {to!r}")
    if not to:
        raise InvalidValue("to", "is empty: name at least one agent")
    if len(to) > MOST_RECIPIENTS:
        raise InvalidValue(
            "to",
            f"names {len(to):,} agents; at most {MOST_RECIPIENTS:,} can be named, more people read a channel",
        )
    names = tuple(check_name(name, "to") for name in to)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InvalidValue("to", f"names {', '.join(twice)} more than once")
    return names


def check_type(message_type: str) -> str:
    """Return a message type; raises `InvalidTopic` for a topic, which says where and not what."""
    if isinstance(message_type, str) and is_topic(message_type):
        raise InvalidTopic(
            "message_type",
            f"{message_type!r} is a topic; give the type of the message, and who it is for as to=[…] "
            "(and channel=…)",
        )
    return check_message_type(message_type)


def check_channel(channel: str) -> str:
    """Return the address of a channel that a message can be said in."""
    address = parse_address(channel, "channel")
    if is_conversation(address):
        raise InvalidTopic("channel", f"{address} is a conversation; send with `bus.dm(to, body)`")
    if not is_channel(address):
        raise InvalidTopic("channel", f"{address} is an inbox; a channel is channel.<name> or project.<id>")
    return address
