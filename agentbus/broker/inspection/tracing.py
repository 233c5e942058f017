"""Every place and outcome of one message.

A message changes its entry id whenever it moves (retry, release, takeover), so it is followed by its
message id through all streams. Records of outcomes name entry ids: those of the entries found are looked up
there. What was handed back is linked to the record of it by time and order, because one script wrote both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentbus.broker.channel import wrong_channel_types
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.look import (
    EntryId,
    Look,
    StreamLook,
    fields_of,
    format_id,
    parse_id,
    take_look,
)
from agentbus.broker.inspection.tailing import TailedEntry, entry_of, read_state
from agentbus.broker.inspection.walking import walk_stream
from agentbus.broker.keys import GROUP, SOURCES, ChannelKeys, InboxKeys, channel_keys, inbox_keys
from agentbus.errors import MalformedMessage, WrongKeyType
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.topics import is_channel

#: Links between hand-backs that are followed to the past.
_MOST_LINKS = 100
#: From a handed back entry to the record of it. Since Redis 7.2 a script has one time from begin to end.
_LONGEST_HAND_BACK_MS = 2

#: Told before each address: (index, how many there are, address).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message is, or where it ended."""

    address: str
    #: ``waiting``, ``returned``, ``in_flight``, ``due``, ``dead`` or ``ended``; ``logged`` in a channel.
    status: str
    #: The lane's priority, ``returned``, ``due``, ``dead`` or ``ended``; ``log`` of a channel.
    stream: str
    entry_id: str
    #: Server time in ms: waiting or held since, due at, dead or ended at; None when no record is left.
    at_ms: int | None
    #: Who holds it or ended it.
    consumer: str | None
    #: For an ended one the outcome, for a dead one the reason.
    outcome: str
    detail: str
    #: Attempts begun so far, the running one included.
    attempts: int
    #: attempt, crashes, expires, first_failure, last_failure, … as the scripts keep them.
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One outcome of one delivery, as the address recorded it."""

    address: str
    #: Server time in ms.
    at_ms: int
    outcome: str
    consumer: str
    stream: str
    entry_id: str
    #: The record in ``outcomes``: its place in time also within one millisecond.
    record_id: str


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is known of one message."""

    message_id: str
    #: None when it was not found.
    message: Message | None
    places: tuple[Place, ...]
    #: In the order of time.
    steps: tuple[Step, ...]
    #: How many addresses were searched.
    searched: int

    @property
    def found(self) -> bool:
        """Whether any place or record of it is left."""
        return bool(self.places or self.steps)


async def trace_message(
    broker: Broker,
    prefix: str,
    message_id: str,
    addresses: Sequence[str],
    progress: Progress | None = None,
) -> Trace:
    """Search some addresses for one message."""
    message: Message | None = None
    places: list[Place] = []
    steps: list[Step] = []
    for index, address in enumerate(addresses):
        if progress is not None:
            progress(index, len(addresses), address)
        search: _Search | _LogSearch = (
            _LogSearch(broker, channel_keys(prefix, address), message_id)
            if is_channel(address)
            else _Search(broker, inbox_keys(prefix, address), message_id)
        )
        await search.run()
        message = message or search.message
        places += search.places
        steps += search.steps
    return Trace(
        message_id,
        message,
        tuple(places),
        tuple(sorted(steps, key=lambda step: parse_id(step.record_id))),
        len(addresses),
    )


class _Search:
    """The search for one message in one address."""

    def __init__(self, broker: Broker, keys: InboxKeys, message_id: str) -> None:
        self._broker = broker
        self._keys = keys
        self._id = message_id
        self.message: Message | None = None
        self.places: list[Place] = []
        self.steps: list[Step] = []
        #: Entries of this message, as (stream, entry id), whose outcomes are looked for.
        self._entries: set[tuple[str, str]] = set()

    async def run(self) -> None:
        look = await take_look(self._broker, self._keys)
        found = [
            entry
            for stream in look.streams
            if stream.length
            for entry in [entry async for entry in self._entries_in(stream.name, stream.key)]
        ]
        dead = [entry async for entry in self._entries_in("dead", self._keys.dead)] if look.dead else []
        ended = [entry async for entry in self._entries_in("ended", self._keys.ended)]
        for entry in (*found, *dead, *ended):
            self.message = self.message or entry.message
        self._entries.update((entry.stream, entry.entry_id) for entry in (*found, *ended))
        for letter in dead:
            # The record of the burial names the stream the entry was in; the letter knows only its lane.
            buried = letter.fields.get("entry", "")
            self._entries.update({(letter.fields.get("lane", ""), buried), ("returned", buried)})
        await self._read_outcomes()
        await self._link_hand_backs()
        for entry in found:
            stream = look.streams[SOURCES.index(entry.stream)]
            self.places.append(await self._place(entry, stream, look))
        await self._find_due()
        self.places += [self._dead_place(letter) for letter in dead]
        self.places += [self._ended_place(entry) for entry in ended]

    # --- streams ---

    async def _entries_in(self, name: str, key: str) -> AsyncIterator[TailedEntry]:
        async for raw in walk_stream(self._broker, key):
            entry = _entry_with(self._id, self._keys.address, name, raw)
            if entry is not None:
                yield entry

    async def _place(self, entry: TailedEntry, stream: StreamLook, look: Look) -> Place:
        entry_id = parse_id(entry.entry_id)
        if entry_id > stream.last_delivered:
            status = "returned" if stream.name == "returned" else "waiting"
            expires = entry.state.get("expires")
            late = isinstance(expires, (int, float)) and expires <= look.server_ms
            detail = "its time to live is over; the next fetch ends it" if late else ""
            return self._of(entry, status, entry_id[0], None, detail=detail)
        pending = await self._broker.execute("XPENDING", stream.key, GROUP, entry.entry_id, entry.entry_id, 1)
        if pending:
            since = look.server_ms - int(pending[0][2])
            return self._of(entry, "in_flight", since, pending[0][1].decode(errors="replace"))
        for step in self.steps:
            if (step.stream, step.entry_id) == (entry.stream, entry.entry_id):
                return self._of(entry, "ended", step.at_ms, step.consumer, outcome=step.outcome)
        return self._of(entry, "ended", None, None, detail="the record of its outcome is gone")

    def _of(
        self, entry: TailedEntry, status: str, at_ms: int | None, consumer: str | None,
        *, outcome: str = "", detail: str = "",
    ) -> Place:  # fmt: skip
        attempts = _count(entry.state.get("attempt")) + (0 if status in ("waiting", "returned") else 1)
        return Place(
            self._keys.address, status, entry.stream, entry.entry_id, at_ms, consumer, outcome, detail,
            attempts, entry.state,
        )  # fmt: skip

    def _dead_place(self, letter: TailedEntry) -> Place:
        fields = letter.fields
        attempts = fields.get("attempts", "0")
        return Place(
            self._keys.address, "dead", "dead", letter.entry_id, letter.at_ms, fields.get("owner"),
            fields.get("reason", ""), fields.get("detail", ""),
            int(attempts) if attempts.isdigit() else 0, letter.state,
        )  # fmt: skip

    def _ended_place(self, entry: TailedEntry) -> Place:
        """Return the place of a message that ended outside of a lane: expired while due, or dropped."""
        return Place(
            self._keys.address, "ended", "ended", entry.entry_id, entry.at_ms, None,
            entry.fields.get("outcome", ""), "", _count(entry.state.get("attempt")), entry.state,
        )  # fmt: skip

    # --- due ---

    async def _find_due(self) -> None:
        due_id = self._id
        while True:
            text, state = await self._broker.execute("HMGET", self._keys.delayed, due_id, f"{due_id}:state")
            if text is None:
                return
            score = await self._broker.execute("ZSCORE", self._keys.due, due_id)
            self.message = self.message or _decoded(text)
            kept = read_state(state)
            self.places.append(
                Place(
                    self._keys.address, "due", "due", due_id, int(float(score)) if score else None, None, "",
                    _next_place(kept),
                    _count(kept.get("attempt")), kept,
                )
            )  # fmt: skip
            # A second message with the same id was given a longer name by the server.
            due_id += "+"

    # --- records ---

    async def _read_outcomes(self) -> None:
        async for entry_id, flat in walk_stream(self._broker, self._keys.outcomes):
            record = _Record.read(entry_id, flat)
            whole = record.message_id == self._id
            for stream, held_id in record.entries:
                if whole or (stream, held_id) in self._entries or (stream, held_id) == ("due", self._id):
                    self._note(record, stream, held_id)

    def _note(self, record: _Record, stream: str, held_id: str) -> None:
        step = Step(
            self._keys.address,
            record.at[0],
            record.outcome,
            record.consumer,
            stream,
            held_id,
            format_id(record.at),
        )
        if step not in self.steps:
            self.steps.append(step)

    async def _link_hand_backs(self) -> None:
        """Follow entries of ``returned`` to the record of who handed them back, and from there on."""
        returned = [held for stream, held in self._entries if stream == "returned"]
        returned += [step.entry_id for step in self.steps if step.stream == "returned"]
        seen: set[str] = set()
        while returned and len(seen) < _MOST_LINKS:
            entry_id = returned.pop()
            if entry_id in seen:
                continue
            seen.add(entry_id)
            origin = await self._hand_back_of(parse_id(entry_id))
            if origin is not None:
                record, stream, held_id = origin
                self._note(record, stream, held_id)
                if stream == "returned":
                    returned.append(held_id)

    async def _hand_back_of(self, entry_id: EntryId) -> tuple[_Record, str, str] | None:
        """Return which delivery became this entry of ``returned``; None when more than one might have."""
        at, place = entry_id
        rows = await self._broker.execute(
            "XRANGE", self._keys.outcomes, at, at + _LONGEST_HAND_BACK_MS, "COUNT", 100
        )
        records = [_Record.read(row[0], row[1]) for row in rows]
        records = [record for record in records if record.outcome in ("released", "reclaimed")]
        if len(records) != 1:
            return None
        (record,) = records
        if len(record.entries) == 1:
            place = 0
        elif record.at[0] != at or place >= len(record.entries):
            return None
        stream, held_id = record.entries[place]
        return record, stream, held_id


class _LogSearch:
    """The search for one message in the log of a channel."""

    def __init__(self, broker: Broker, keys: ChannelKeys, message_id: str) -> None:
        self._broker = broker
        self._keys = keys
        self._id = message_id
        self.message: Message | None = None
        self.places: list[Place] = []
        #: A log has no outcomes: nobody takes anything out of it.
        self.steps: list[Step] = []

    async def run(self) -> None:
        try:
            await self._read_log()
        except WrongKeyType as error:
            wrong = await wrong_channel_types(self._broker, self._keys)
            raise WrongKeyType("; ".join(wrong)) from error

    async def _read_log(self) -> None:
        async for raw in walk_stream(self._broker, self._keys.log):
            entry = _entry_with(self._id, self._keys.address, "log", raw)
            if entry is not None:
                self.message = self.message or entry.message
                self.places.append(
                    Place(entry.address, "logged", "log", entry.entry_id, entry.at_ms, None, "", "", 0)
                )


def _entry_with(message_id: str, address: str, stream: str, raw: Sequence[Any]) -> TailedEntry | None:
    """Return an entry if it is the message with this id."""
    # The id may also be another message's cause or conversation: only the decoded one counts.
    if not any(message_id.encode() in value for value in raw[1] or ()):
        return None
    entry = entry_of(address, stream, raw)
    return entry if entry.message is not None and entry.message.message_id == message_id else None


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of outcomes."""

    at: EntryId
    consumer: str
    outcome: str
    message_id: str | None
    #: (stream, entry id) of each delivery it speaks of, in the order of the record.
    entries: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, entry_id: bytes, flat: Sequence[bytes]) -> _Record:
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


def _count(value: Any) -> int:
    """Return a counter of a state; one that somebody wrote by hand reads as 0, as in the scripts."""
    return value if type(value) is int and value >= 0 else 0


def _next_place(state: Mapping[str, Any]) -> str:
    if state.get("parked"):
        return "a dead letter that waits for room"
    return f"goes to {'returned' if state.get('held') else state.get('lane', 'normal')}"


def _decoded(text: bytes) -> Message | None:
    try:
        return decode(text)
    except MalformedMessage:
        return None
