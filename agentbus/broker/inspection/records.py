"""Records of outcomes, as a search reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentbus.broker.inspection.look import EntryId, fields_of, parse_id


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """One record of outcomes."""

    at: EntryId
    consumer: str
    outcome: str
    message_id: str | None
    #: (stream, entry id) of each delivery it speaks of, in the order of the record.
    entries: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, entry_id: bytes, flat: Sequence[bytes]) -> OutcomeRecord:
        """Return a record; a stream's name may come several times, and one value may hold many ids."""
        named = fields_of(flat)
        entries = tuple(
            (name.decode(errors="replace"), held_id)
            for name, value in zip(flat[::2], flat[1::2], strict=True)
            if name not in (b"consumer", b"outcome", b"message_id", b"count")
            for held_id in value.decode(errors="replace").split()
        )
        message_id = named.get("message_id")
        return cls(
            parse_id(entry_id),
            named.get("consumer", b"").decode(errors="replace"),
            named.get("outcome", b"").decode(errors="replace"),
            None if message_id is None else message_id.decode(errors="replace"),
            entries,
        )
