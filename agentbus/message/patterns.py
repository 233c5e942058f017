"""Patterns over topics: ``agent.*.status`` and ``channel.design.>``.

``*`` stands for exactly one part of a topic, ``>``, which comes last, for one part or more. Who watches or
copies uses the same grammar, and only this module decides what matches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from agentbus.errors import InvalidTopic, InvalidValue
from agentbus.message.topics import CHANNEL_KINDS, INBOX_KINDS, check_message_type, check_name

ONE, REST = "*", ">"
_KINDS = (*INBOX_KINDS, *CHANNEL_KINDS)
#: A topic has a kind, a name and a message type, which may have further parts.
_FEWEST_PARTS = 3
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was checked."""

    text: str
    _expression: re.Pattern[str] = field(repr=False, compare=False)

    def matches(self, topic: str) -> bool:
        """Whether a topic falls under this pattern."""
        return self._expression.fullmatch(topic) is not None

    def __str__(self) -> str:
        return self.text


def parse_pattern(text: str, *, everything: bool = False) -> Pattern:
    """Return a pattern after checking it; raise `InvalidTopic` that says which part is wrong.

    One of wildcards alone matches every topic of the bus, or nearly so, and is refused unless ``everything``
    says that this is meant.
    """
    if not isinstance(text, str):
        raise InvalidTopic("pattern", f"must be text such as agent.*.status, not {text!r}")
    pattern = _parse(text)
    if not everything and set(text.split(".")) <= {ONE, REST}:
        raise InvalidTopic(
            "pattern",
            f"{text!r} matches everything that is sent on the bus; name a kind, as agent.> does, or say "
            "everything=True",
        )
    return pattern


@lru_cache(maxsize=4096)
def _parse(text: str) -> Pattern:
    if len(text) > _LONGEST:
        raise InvalidTopic("pattern", f"has {len(text)} characters; the longest has {_LONGEST}")
    parts = text.split(".")
    if "" in parts:
        raise InvalidTopic("pattern", f"{text!r} has an empty part")
    if REST in parts[:-1]:
        raise InvalidTopic("pattern", f"{text!r}: '>' stands for the rest of a topic and can only come last")
    if len(parts) < _FEWEST_PARTS and parts[-1] != REST:
        raise InvalidTopic(
            "pattern",
            f"{text!r} matches nothing: topics have three parts or more; write {text + '.' + REST!r}",
        )
    for place, part in enumerate(parts):
        if part not in (ONE, REST):
            _check_part(text, place, part)
    kind, *rest = parts
    return Pattern(text, re.compile(_kind_expression(kind) + "".join(_expression(part) for part in rest)))


def _check_part(text: str, place: int, part: str) -> None:
    if ONE in part or REST in part:
        raise InvalidTopic("pattern", f"in {text!r}, {part!r}: a wildcard is a part by itself")
    if place == 0:
        if part not in _KINDS:
            kinds = ", ".join(_KINDS)
            raise InvalidTopic("pattern", f"{text!r} begins with {part!r}; topics begin with {kinds}")
        return
    try:
        check_name(part, "pattern") if place == 1 else check_message_type(part, "pattern")
    except InvalidValue as error:
        raise InvalidTopic("pattern", f"in {text!r}, {error.problem}") from None


def _kind_expression(kind: str) -> str:
    """A wildcard is never meant to reach what has no business with patterns: direct messages and answers."""
    known = "|".join(_KINDS)
    if kind == ONE:
        return f"(?:{known})"
    return rf"(?:{known})\..+" if kind == REST else re.escape(kind)


def _expression(part: str) -> str:
    if part == ONE:
        return r"\.[^.]+"
    return r"\..+" if part == REST else r"\." + re.escape(part)
