"""Gathers the evidence of a fleet at rest from PostgreSQL and the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson
import psycopg
import redis

from agentbus import Schedule
from agentbus.broker.archiving import TERMINAL
from agentbus.broker.keys import SOURCES, addresses, channel_keys, inbox_keys
from agentbus.broker.notices import CHANNEL
from agentbus.message.codec import decode
from agentbus.status.reading import ADDRESS as STATUS
from tests.chaos import books
from tests.chaos.evidence import Evidence, Letters, Place, Row, Ticks

_PREFIX = "agentbus"
_ROWS = """SELECT address, stream, entry_ms, entry_seq, outcome, message_id, raw, details->>'letter'
    FROM agentbus.messages WHERE prefix = %s ORDER BY ended_ms, ended_seq, ended_index"""
_REFUSED = "SELECT count(*) FROM agentbus.refused"
_XRANGE = "return redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1000)"
_STREAMS = frozenset((*SOURCES, "resolved", "ended"))

Fields = dict[str, bytes]


class Gathering:
    """Reads; nothing must move any more."""

    def __init__(self, client: redis.Redis, dsn: str, trimmed: frozenset[str]) -> None:
        """``trimmed`` are the inboxes whose records retention has taken."""
        self._client = client
        self._dsn = dsn
        self._trimmed = trimmed

    def evidence(self, schedules: tuple[Schedule, ...]) -> Evidence:
        """Return everything."""
        rows = tuple(self._rows())
        known: Any = self._client.smembers(addresses(_PREFIX))
        places = tuple(self._place(name) for name in sorted(each.decode() for each in known))
        contents = [row.content for row in rows]
        for place in places:
            if place.address.startswith("agent."):
                contents += [
                    _content(fields) for _, fields in self._walk(inbox_keys(_PREFIX, place.address).dead)
                ]
        return Evidence(
            rows, places, tuple(_ticks(each, contents) for each in schedules), tuple(self._status())
        )

    def _rows(self) -> Iterator[Row]:
        with psycopg.connect(self._dsn, connect_timeout=10) as connection:
            refused = connection.execute(_REFUSED).fetchone()
            assert refused == (0,), f"the archive refused {refused} rows"
            for address, stream, time, number, outcome, message_id, raw, letter in connection.execute(
                _ROWS, (_PREFIX,)
            ):
                content = _content({"message": raw})
                name = f"{address}:{letter}" if letter else ""
                yield Row(address, stream, f"{time}-{number}", outcome, message_id or "", content, name)

    def _place(self, address: str) -> Place:
        if not address.startswith("agent."):
            log = channel_keys(_PREFIX, address).log
            logged = {("log", entry): frozenset(("logged",)) for entry, _ in self._walk(log)}
            return Place(address, {}, logged)
        counts = books.look(self._client, address).counts
        whole = address not in self._trimmed
        ended = self._ended(address) if whole else None
        return Place(address, counts, ended, self._letters(address, whole), self._kept(address))

    def _kept(self, address: str) -> int:
        """Return how many ended messages the broker holds: all that are not dead, once nothing moves."""
        keys = inbox_keys(_PREFIX, address)
        return sum(int(self._client.xlen(stream)) for stream in (*keys.sources, keys.ended, keys.resolved))

    def _ended(self, address: str) -> Mapping[tuple[str, str], frozenset[str]]:
        """Return what the records say has ended, and how; an entry may be listed again by a later record."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for _, pairs in self._pairs(inbox_keys(_PREFIX, address).outcomes):
            outcome = dict(pairs)["outcome"].decode()
            ids = [(stream, ids) for stream, ids in pairs if stream in _STREAMS and outcome in TERMINAL]
            for place in ((stream, entry) for stream, listed in ids for entry in listed.decode().split()):
                found[place] = found.get(place, frozenset()) | {outcome}
        return found

    def _letters(self, address: str, whole: bool) -> Letters:
        keys = inbox_keys(_PREFIX, address)
        dead = {
            f"{address}:{entry}": decode(fields["message"]).message_id
            for entry, fields in self._walk(keys.dead)
        }
        redriven = []
        for _, fields in self._walk(keys.outcomes):
            if fields["outcome"] == b"redriven":
                redriven += [f"{address}:{entry}" for entry in fields["dead"].decode().split()]
        return Letters(tuple(self._announced(address)), dead, tuple(redriven) if whole else None)

    def _announced(self, address: str) -> Iterator[tuple[str, str]]:
        for content in self.notices():
            if content["address"] == address:
                yield content["dlq_id"], content["message_id"]

    def notices(self) -> Iterator[Mapping[str, Any]]:
        """Yield the notices of dead letters."""
        for _, fields in self._walk(channel_keys(_PREFIX, CHANNEL).log):
            content = _content(fields)
            if "dlq_id" in content:
                yield content

    def _status(self) -> Iterator[int]:
        for _, fields in self._walk(channel_keys(_PREFIX, STATUS).log):
            message = decode(fields["message"])
            if "tick_ms" in message.metadata:
                yield int(message.metadata["tick_ms"])

    # --- has everything come to rest? ---

    def announced(self, inboxes: tuple[str, ...]) -> bool:
        """Whether every dead letter has its notice, also those that have left."""
        told = {content["dlq_id"] for content in self.notices()}
        for address in inboxes:
            keys = inbox_keys(_PREFIX, address)
            if self._client.xlen(keys.unannounced):
                return False
            if {f"{address}:{entry}" for entry, _ in self._walk(keys.dead)} - told:
                return False
        return True

    def archived(self) -> bool:
        """Whether the archive has come to the end of every address."""
        known: Any = self._client.smembers(addresses(_PREFIX))
        return all(self._is_archived(each.decode()) for each in known)

    def _is_archived(self, address: str) -> bool:
        keys = inbox_keys(_PREFIX, address)
        stream = keys.outcomes if address.startswith("agent.") else channel_keys(_PREFIX, address).log
        last: Any = self._client.xrevrange(stream, count=1)
        position = self._client.hget(keys.archived, stream.rpartition(":")[2])
        return not last or position == last[0][0]

    def _walk(self, key: str) -> Iterator[tuple[str, Fields]]:
        """Yield the entries of a stream; of a field that comes several times the last value."""
        for entry, pairs in self._pairs(key):
            yield entry, dict(pairs)

    def _pairs(self, key: str) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        """Yield the entries of a stream as they are: records name a stream again and again."""
        after = "-"
        while True:
            # By a script: the driver makes a dictionary of an entry.
            entries: Any = self._client.eval(_XRANGE, 1, key, after)
            for entry, flat in entries:
                items = iter(flat)
                yield entry.decode(), [(name.decode(), next(items)) for name in items]
                after = f"({entry.decode()}"
            if len(entries) < 1_000:
                return


def _content(fields: Mapping[str, bytes]) -> Mapping[str, Any]:
    """Return what the sender wrote; empty where that is no object."""
    content = orjson.loads(fields["message"])["body"]["content"]
    return content if isinstance(content, dict) else {}


def _ticks(schedule: Schedule, contents: list[Mapping[str, Any]]) -> Ticks:
    found = [
        (int(content["tick"]), _ms(datetime.fromisoformat(content["time"])))
        for content in contents
        if content.get("schedule") == schedule.id
    ]
    interval = int(schedule.schedule.removeprefix("interval:")) * 1000
    return Ticks(
        schedule.id, _ms(schedule.created_at), interval, schedule.sent, schedule.missed, tuple(sorted(found))
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
