"""The books of one address: every accepted message is somewhere, and the sum says so.

accepted + hand-made = processed + expired + cancelled + discarded + resolved + moved
                       + dead + due + in flight + waiting
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import redis

from agentbus.broker.keys import GROUP, SOURCES, InboxKeys, inbox_keys

#: One atomic look. ``waiting`` is counted by a walk and not derived, or the sum would prove nothing.
_LOOK = """
local found = {}
local function put(name, value) found[#found + 1] = name; found[#found + 1] = value end
local ledger = redis.call('HGETALL', KEYS[1])
for i = 1, #ledger, 2 do put(ledger[i], tonumber(ledger[i + 1])) end
put('dead', redis.call('XLEN', KEYS[2]))
put('due', redis.call('ZCARD', KEYS[3]))
local waiting, pending = 0, 0
for i = 4, 9 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    local last = '0-0'
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
      local fields = {}
      for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
      if fields.name == ARGV[1] then last = fields['last-delivered-id'] pending = pending + fields.pending end
    end
    local stream = redis.call('XINFO', 'STREAM', KEYS[i])
    for f = 1, #stream, 2 do
      if stream[f] == 'entries-added' then put('entries:' .. ARGV[i - 2], stream[f + 1]) end
    end
    repeat
      local entries = redis.call('XRANGE', KEYS[i], '(' .. last, '+', 'COUNT', 500)
      waiting = waiting + #entries
      if #entries > 0 then last = entries[#entries][1] end
    until #entries < 500
  end
end
put('waiting', waiting)
put('in flight', pending)
return found
"""
_IN = ("accepted",)
_OUT = ("processed", "expired", "cancelled", "discarded", "resolved", "moved", "dead", "due", "in flight",
        "waiting")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Books:
    """The counters and lengths of one address at one moment."""

    counts: dict[str, int]

    def __getitem__(self, name: str) -> int:
        return self.counts.get(name, 0)

    @property
    def hand_made(self) -> int:
        """Entries that no script added."""
        return sum(self[f"entries:{source}"] - self[f"added:{source}"] for source in SOURCES)

    @property
    def difference(self) -> int:
        """What came in minus what went out or is still there; 0 when the books close."""
        return self["accepted"] + self.hand_made - sum(self[name] for name in _OUT)

    @property
    def unsettled(self) -> int:
        """Messages that somebody still has to handle."""
        return self["due"] + self["in flight"] + self["waiting"]

    def __str__(self) -> str:
        parts = [f"{name} {self[name]}" for name in (*_IN, *_OUT, "vanished") if self[name]]
        return f"{', '.join(parts)}, hand-made {self.hand_made}, difference {self.difference}"


def look(client: redis.Redis, address: str, prefix: str = "agentbus") -> Books:
    """Return the books of an address."""
    keys = inbox_keys(prefix, address)
    found: Any = client.eval(_LOOK, 9, keys.ledger, keys.dead, keys.due, *keys.sources, GROUP, *SOURCES)
    items = iter(found)
    return Books({name.decode(): int(value or 0) for name, value in zip(items, items, strict=True)})


def dead_keys(client: redis.Redis, address: str, prefix: str = "agentbus") -> list[str]:
    """Return the keys of the dead letters."""
    entries = _walk(client, inbox_keys(prefix, address).dead)
    return [_key_of(fields[b"message"]) for _, fields in entries]


def queued_keys(client: redis.Redis, address: str, prefix: str = "agentbus") -> list[str]:
    """Return the keys of everything that still waits, is held, or comes due later."""
    keys = inbox_keys(prefix, address)
    found = []
    for stream in keys.sources:
        found += [_key_of(fields[b"message"]) for _, fields in _unsettled(client, stream)]
    due: Any = client.hgetall(keys.delayed)
    return found + [_key_of(text) for name, text in due.items() if not name.endswith(b":state")]


def stored_keys(client: redis.Redis, keys: InboxKeys) -> list[str]:
    """Return the key of every entry in every lane, settled or not."""
    return [_key_of(fields[b"message"]) for stream in keys.sources for _, fields in _walk(client, stream)]


def _unsettled(client: redis.Redis, stream: str) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    if not client.exists(stream):
        return
    groups: Any = client.xinfo_groups(stream)
    last = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()), b"0-0")
    yield from _walk(client, stream, after=last)
    pending: Any = client.xpending_range(stream, GROUP, "-", "+", 100_000) if groups else []
    for item in pending:
        found: Any = client.xrange(stream, item["message_id"], item["message_id"])
        yield from found


def _walk(
    client: redis.Redis, stream: str, after: bytes = b"0-0"
) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    while True:
        entries: Any = client.xrange(stream, b"(" + after, "+", 1_000)
        yield from entries
        if len(entries) < 1_000:
            return
        after = entries[-1][0]


def _key_of(message: bytes) -> str:
    return str(orjson.loads(message)["body"]["content"]["key"])
