"""Everything that the server knows of one inbox, read in one round trip, and compared with the model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import redis

from agentbus.broker.keys import GROUP, SOURCES, InboxKeys
from tests.model import EntryId, InboxModel, Message, parse_id

COUNTED = (
    "accepted", "processed", "expired", "discarded", "cancelled", "vanished", "retried", "deferred",
    "bounced", "released", "reclaimed",
)  # fmt: skip
ENDED = ("processed", "expired", "cancelled", "discarded", "resolved", "moved", "vanished")


@dataclass(frozen=True)
class Entry:
    """One entry of a stream."""

    tag: str
    state: dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """One stream with what its group knows."""

    entries: dict[EntryId, Entry]
    pending: dict[EntryId, str]
    last: EntryId
    added: int

    def waiting(self) -> list[EntryId]:
        """Measured by a walk, not derived from counters."""
        return [entry_id for entry_id in self.entries if entry_id > self.last]


@dataclass(frozen=True)
class Snapshot:
    """One inbox."""

    streams: list[Stream]
    #: In the order in which they come due.
    due_tags: list[str]
    due_states: dict[str, dict[str, Any]]
    orphans: int
    dead: dict[str, dict[str, Any]]
    ledger: Counter[str]
    alive: dict[str, str]
    listed: list[str]

    #: Malformed entries carry their tag outside of the message.
    _malformed: ClassVar[dict[bytes, str]] = {}

    @classmethod
    def malformed_tag(cls, entry_id: bytes) -> str:
        return cls._malformed[entry_id]

    @classmethod
    def take(cls, server: redis.Redis, keys: InboxKeys) -> Snapshot:
        pipe = server.pipeline(transaction=False)
        for stream in keys.sources:
            pipe.xrange(stream)
            pipe.xpending_range(stream, GROUP, "-", "+", 10_000)
            pipe.xinfo_groups(stream)
            pipe.xinfo_stream(stream)
        pipe.zrange(keys.due, 0, -1)
        pipe.hgetall(keys.delayed)
        pipe.xrange(keys.dead)
        pipe.hgetall(keys.ledger)
        pipe.hgetall(keys.alive)
        pipe.zrange(keys.lanes, 0, -1)
        replies = pipe.execute(raise_on_error=False)
        due, delayed, dead, ledger, alive, lanes = replies[24:]
        bodies = {name: json.loads(text)["tag"] for name, text in delayed.items() if b'"tag"' in text}
        return cls(
            streams=[cls._stream(*replies[index : index + 4]) for index in range(0, 24, 4)],
            due_tags=[bodies[name] for name in due],
            due_states={bodies[name]: json.loads(delayed[name + b":state"]) for name in due},
            orphans=len(delayed) - 2 * len(due),
            dead={cls._tag(letter): json.loads(letter[b"state"]) for _, letter in dead},
            ledger=Counter({name.decode(): int(value) for name, value in ledger.items()}),
            alive={name.decode(): beat.decode() for name, beat in alive.items()},
            listed=[name.decode() for name in lanes],
        )

    @classmethod
    def _stream(cls, entries: Any, pending: Any, groups: Any, info: Any) -> Stream:
        found = {}
        if isinstance(entries, Exception) or isinstance(info, Exception):
            entries, info = [], {"entries-added": 0}
        for entry_id, fields in entries:
            tag = cls._tag(fields)
            if b"message" not in fields:
                cls._malformed[entry_id] = tag
            found[parse_id(entry_id)] = Entry(tag, read_state(fields.get(b"state", b"{}")))
        group = groups[0] if not isinstance(groups, Exception) and groups else None
        held = [] if isinstance(pending, Exception) else pending
        return Stream(
            entries=found,
            pending={parse_id(item["message_id"]): item["consumer"].decode() for item in held},
            last=parse_id(group["last-delivered-id"]) if group else (0, 0),
            added=info["entries-added"],
        )

    @staticmethod
    def _tag(fields: dict[bytes, bytes]) -> str:
        if b"message" in fields:
            return str(json.loads(fields[b"message"])["tag"])
        return (fields.get(b"note") or fields[b"raw:note"]).decode()

    # --- comparing ---

    def compare(self, model: InboxModel) -> None:
        """Every message in the one place the model says, with its counters; the ledger adds up."""
        self._learn_entries(model)
        waiting = {(s, i) for s, stream in enumerate(self.streams) for i in stream.waiting()}
        held = {(s, i): owner for s, stream in enumerate(self.streams) for i, owner in stream.pending.items()}
        assert waiting == {(one.source, one.entry) for one in model.at("waiting")}, "waiting"
        assert held == {(one.source, one.entry): one.owner for one in model.at("held")}, "in flight"
        gone = {one.tag for one in model.at("held") if not one.vanished and not self._has(one)}
        assert gone == set(), "held by somebody, and yet removed"
        assert sorted(self.due_tags) == sorted(one.tag for one in model.at("due")), "due"
        assert self.orphans == 0, "bodies without an index, or an index without bodies"
        assert sorted(self.dead) == sorted(one.tag for one in model.at("dead")), "dead"
        self._compare_history(model, waiting, held)
        self._compare_counters(model)
        self._compare_ledger(model, len(waiting), len(held))
        self._compare_index(model)

    def _has(self, message: Message) -> bool:
        return message.entry in self.streams[message.source].entries

    def _learn_entries(self, model: InboxModel) -> None:
        """Take over the ids of what the model has moved; one that it has not moved must not change."""
        for source, stream in enumerate(self.streams):
            for entry_id, entry in stream.entries.items():
                message = model.messages[entry.tag]
                if message.place == "waiting" and message.entry is None and message.source == source:
                    assert entry_id > stream.last, f"{entry.tag} was added behind the readers"
                    message.entry = entry_id

    def _compare_history(self, model: InboxModel, waiting: Any, held: Any) -> None:
        """What is neither waiting nor held is history, once, of a message that ended."""
        for source, stream in enumerate(self.streams):
            for entry_id, entry in stream.entries.items():
                if (source, entry_id) not in waiting and (source, entry_id) not in held:
                    assert not model.messages[entry.tag].active, f"{entry.tag} is in two places"

    def _compare_counters(self, model: InboxModel) -> None:
        for source, stream in enumerate(self.streams):
            for entry in stream.entries.values():
                message = model.messages[entry.tag]
                if message.place == "waiting" and message.source == source:
                    same_counters(message, entry.state)
        for found in (self.due_states, self.dead):
            for tag, state in found.items():
                same_counters(model.messages[tag], state)

    def _compare_ledger(self, model: InboxModel, waiting: int, held: int) -> None:
        for name in COUNTED:
            assert self.ledger[name] == model.ledger[name], f"ledger {name}"
        handmade = 0
        for name, stream in zip(SOURCES, self.streams, strict=True):
            assert self.ledger[f"added:{name}"] == model.ledger[f"added:{name}"], f"ledger added:{name}"
            handmade += stream.added - self.ledger[f"added:{name}"]
        ended = sum(self.ledger[name] for name in ENDED)
        elsewhere = len(self.dead) + len(self.due_tags) + held + waiting
        assert self.ledger["accepted"] + handmade == ended + elsewhere, "the ledger does not add up"

    def _compare_index(self, model: InboxModel) -> None:
        for message in model.at("waiting"):
            if not message.handmade and message.source:
                assert SOURCES[message.source] in self.listed, f"{message.tag} waits in a lane not listed"


def read_state(text: bytes) -> dict[str, Any]:
    try:
        state = json.loads(text)
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def same_counters(message: Message, state: dict[str, Any]) -> None:
    expected = {"attempt": message.attempt, "crashes": message.crashes, "bounces": message.bounces}
    for name, value in expected.items():
        found = state.get(name, 0)
        if message.handmade and (not isinstance(found, int) or found < 0):
            found = 0
        assert found == value, f"{message.tag} has {name} {found}, not {value}"
