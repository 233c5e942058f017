"""Messages frozen together: what one call of the publish script takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentbus.message.address_policy import LOOP_LIMITS
from agentbus.message.owed import DebtNotes
from agentbus.send.stored import Waiting

_DIGITS = "01234"


@dataclass(frozen=True, slots=True)
class Batch:
    """The same messages keep the same positions until they are answered."""

    parts: Sequence[Waiting]
    #: One digit per message: its lane.
    lanes: str
    #: What the script must know of some of them, as JSON by position; empty for plain messages.
    options: str
    texts: Sequence[bytes]
    #: Bytes of all texts.
    size: int

    @property
    def abandoned(self) -> bool:
        """Whether every caller has given up."""
        return all(part.gone for part in self.parts)

    @property
    def topics(self) -> set[str]:
        """What it has messages for."""
        return {part.outgoing.destination.topic for part in self.parts}

    def options_with(self, owed: Mapping[str, Sequence[str]]) -> str:
        """Return the options, and what is owed: copies to these agents, by topic."""
        notes = DebtNotes()
        for part in self.parts:
            message = part.outgoing
            topic = message.destination.topic
            agents = owed.get(topic)
            if agents is None:
                notes.skip()
            else:
                notes.enter(message.message_id, topic, message.lane, message.option, agents)
        options = orjson.loads(self.options) if self.options else {}
        return orjson.dumps({**options, "owed": notes.told()}).decode()


def freeze(parts: Sequence[Waiting]) -> Batch:
    """Return the batch of these messages."""
    options: dict[str, Any] = {
        str(index): part.outgoing.option
        for index, part in enumerate(parts, 1)
        if part.outgoing.option is not None
    }
    if any("pair" in option for option in options.values()):
        options["loops"] = LOOP_LIMITS
    texts = [part.outgoing.text for part in parts]
    return Batch(
        parts=parts,
        lanes="".join([_DIGITS[part.outgoing.lane] for part in parts]),
        options=orjson.dumps(options).decode() if options else "",
        texts=texts,
        size=sum(map(len, texts)),
    )
