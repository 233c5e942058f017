"""Every place and outcome of one message, or of all messages of one conversation.

A message changes its entry id whenever it moves (retry, release, takeover), so it is followed by its
message id through all streams. Records of outcomes name entry ids: those of the entries found are looked up
there. What was handed back is linked to the record of it by time and order, because one script wrote both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentbus.broker.channel import wrong_channel_types
from agentbus.broker.connection import Broker
from agentbus.broker.inspection.found import Found, Place, Step
from agentbus.broker.inspection.look import (
    EntryId,
    Look,
    StreamLook,
    format_id,
    parse_id,
    take_look,
)
from agentbus.broker.inspection.records import OutcomeRecord
from agentbus.broker.inspection.tailing import TailedEntry, entry_of, read_state
from agentbus.broker.inspection.walking import walk_stream
from agentbus.broker.inspection.wanted import Wanted
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


async def search_address(broker: Broker, prefix: str, address: str, wanted: Wanted) -> dict[str, Found]:
    """Return what an address has of the wanted messages, by message id; records alone have no message."""
    search: _Search | _LogSearch = (
        _LogSearch(broker, channel_keys(prefix, address), wanted)
        if is_channel(address)
        else _Search(broker, inbox_keys(prefix, address), wanted)
    )
    await search.run()
    return search.found


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
        found = (await search_address(broker, prefix, address, Wanted(message_id))).get(message_id)
        if found is not None:
            message = message or found.message
            places += found.places
            steps += found.steps
    return Trace(
        message_id,
        message,
        tuple(places),
        tuple(sorted(steps, key=lambda step: parse_id(step.record_id))),
        len(addresses),
    )


class _Search:
    """The search for the wanted messages in one inbox."""

    def __init__(self, broker: Broker, keys: InboxKeys, wanted: Wanted) -> None:
        self._broker = broker
        self._keys = keys
        self._wanted = wanted
        #: By message id.
        self.found: dict[str, Found] = {}
        #: Entries of these messages, (stream, entry id) to message id, whose outcomes are looked for.
        self._entries: dict[tuple[str, str], str] = {}

    async def run(self) -> None:
        look = await take_look(self._broker, self._keys)
        held = [
            entry
            for stream in look.streams
            if stream.length
            for entry in [entry async for entry in self._entries_in(stream.name, stream.key)]
        ]
        beside = await self._beside_lanes(look)
        self._note_entries((*held, *beside))
        due = await self._find_due()
        await self._read_outcomes()
        await self._link_hand_backs()
        for entry in held:
            stream = look.streams[SOURCES.index(entry.stream)]
            self._found(_id_of(entry)).places.append(await self._place(entry, stream, look))
        for message_id, place in due:
            self._found(message_id).places.append(place)
        for entry in beside:
            self._found(_id_of(entry)).places.append(self._place_beside_lanes(entry))

    async def _beside_lanes(self, look: Look) -> list[TailedEntry]:
        keys = {"ended": self._keys.ended, "resolved": self._keys.resolved}
        if look.dead:
            keys = {"dead": self._keys.dead, **keys}
        return [entry for name, key in keys.items() async for entry in self._entries_in(name, key)]

    def _note_entries(self, entries: Iterable[TailedEntry]) -> None:
        """Note under which ids records of outcomes may speak of them."""
        for entry in entries:
            message_id = _id_of(entry)
            if entry.stream != "dead":
                self._entries[entry.stream, entry.entry_id] = message_id
            if entry.stream in ("dead", "resolved"):
                # The record of the burial names the stream the entry was in; the letter knows only its lane.
                buried = entry.fields.get("entry", "")
                for stream_name in (entry.fields.get("lane", ""), "returned"):
                    self._entries[stream_name, buried] = message_id

    def _found(self, message_id: str, message: Message | None = None) -> Found:
        found = self.found.setdefault(message_id, Found())
        found.message = found.message or message
        return found

    # --- streams ---

    async def _entries_in(self, name: str, key: str) -> AsyncIterator[TailedEntry]:
        async for raw in walk_stream(self._broker, key):
            entry = _wanted_entry(self._wanted, self._keys.address, name, raw)
            if entry is not None:
                self._found(_id_of(entry), entry.message)
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
        for step in self._found(_id_of(entry)).steps:
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

    def _place_beside_lanes(self, entry: TailedEntry) -> Place:
        if entry.stream == "dead":
            return self._dead_place(entry)
        return self._resolved_place(entry) if entry.stream == "resolved" else self._ended_place(entry)

    def _resolved_place(self, letter: TailedEntry) -> Place:
        """Return the place of a dead letter that somebody took care of."""
        fields, dead = letter.fields, self._dead_place(letter)
        at = fields.get("resolved_at", "")
        return replace(
            dead, status="ended", stream="resolved", at_ms=int(at) if at.isdecimal() else letter.at_ms,
            consumer=fields.get("resolved_by"), outcome="resolved",
            detail=f"{fields.get('resolution', '')} ({dead.outcome})",
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

    async def _find_due(self) -> list[tuple[str, Place]]:
        return [
            found
            for due_id in await self._wanted.due_ids(self._broker, self._keys)
            if (found := await self._due_place(due_id)) is not None
        ]

    async def _due_place(self, due_id: str) -> tuple[str, Place] | None:
        text, state = await self._broker.execute("HMGET", self._keys.delayed, due_id, f"{due_id}:state")
        message = None if text is None else _decoded(text)
        if message is None or not self._wanted.takes(message):
            return None
        score = await self._broker.execute("ZSCORE", self._keys.due, due_id)
        self._found(message.message_id, message)
        kept = read_state(state)
        return message.message_id, Place(
            self._keys.address, "due", "due", due_id, int(float(score)) if score else None, None, "",
            _next_place(kept), _count(kept.get("attempt")), kept,
        )  # fmt: skip

    # --- records ---

    async def _read_outcomes(self) -> None:
        async for entry_id, flat in walk_stream(self._broker, self._keys.outcomes):
            record = OutcomeRecord.read(entry_id, flat)
            whole = record.message_id
            if whole is not None and whole != self._wanted.id and whole not in self.found:
                whole = None
            for stream, held_id in record.entries:
                of = whole or self._entries.get((stream, held_id))
                if of is None and stream == "due" and (held_id in self.found or held_id == self._wanted.id):
                    of = held_id
                if of is not None:
                    self._note(of, record, stream, held_id)

    def _note(self, message_id: str, record: OutcomeRecord, stream: str, held_id: str) -> None:
        step = Step(
            self._keys.address,
            record.at[0],
            record.outcome,
            record.consumer,
            stream,
            held_id,
            format_id(record.at),
        )
        steps = self._found(message_id).steps
        if step not in steps:
            steps.append(step)

    async def _link_hand_backs(self) -> None:
        """Follow entries of ``returned`` to the record of who handed them back, and from there on."""
        returned = {held: of for (stream, held), of in self._entries.items() if stream == "returned"}
        for message_id, found in self.found.items():
            returned |= {step.entry_id: message_id for step in found.steps if step.stream == "returned"}
        for entry_id, message_id in returned.items():
            await self._link_back(message_id, entry_id)

    async def _link_back(self, message_id: str, entry_id: str) -> None:
        seen: set[str] = set()
        while entry_id not in seen and len(seen) < _MOST_LINKS:
            seen.add(entry_id)
            origin = await self._hand_back_of(parse_id(entry_id))
            if origin is None:
                return
            record, stream, held_id = origin
            self._note(message_id, record, stream, held_id)
            if stream != "returned":
                return
            entry_id = held_id

    async def _hand_back_of(self, entry_id: EntryId) -> tuple[OutcomeRecord, str, str] | None:
        """Return which delivery became this entry of ``returned``; None when more than one might have."""
        at, place = entry_id
        rows = await self._broker.execute(
            "XRANGE", self._keys.outcomes, at, at + _LONGEST_HAND_BACK_MS, "COUNT", 100
        )
        records = [OutcomeRecord.read(row[0], row[1]) for row in rows]
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
    """The search for the wanted messages in the log of a channel."""

    def __init__(self, broker: Broker, keys: ChannelKeys, wanted: Wanted) -> None:
        self._broker = broker
        self._keys = keys
        self._wanted = wanted
        #: A log has no outcomes: nobody takes anything out of it.
        self.found: dict[str, Found] = {}

    async def run(self) -> None:
        try:
            await self._read_log()
        except WrongKeyType as error:
            wrong = await wrong_channel_types(self._broker, self._keys)
            raise WrongKeyType("; ".join(wrong)) from error

    async def _read_log(self) -> None:
        async for raw in walk_stream(self._broker, self._keys.log):
            entry = _wanted_entry(self._wanted, self._keys.address, "log", raw)
            if entry is not None:
                found = self.found.setdefault(_id_of(entry), Found(entry.message))
                found.places.append(
                    Place(entry.address, "logged", "log", entry.entry_id, entry.at_ms, None, "", "", 0)
                )


def _wanted_entry(wanted: Wanted, address: str, stream: str, raw: Sequence[Any]) -> TailedEntry | None:
    """Return an entry if it is one of the wanted messages."""
    if not any(wanted.may_be(value) for value in raw[1] or ()):
        return None
    entry = entry_of(address, stream, raw)
    return entry if entry.message is not None and wanted.takes(entry.message) else None


def _id_of(entry: TailedEntry) -> str:
    assert entry.message is not None, "others are not wanted"
    return entry.message.message_id


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
