"""What the broker knows of the agents that read its channels, once nothing moves any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import redis

from agentbus.broker.keys import channel_keys, subscriber_keys
from tests.chaos import books

#: What ends a message of a log for one agent, as counters.
ENDS = ("processed", "expired", "discarded", "moved", "vanished")


@dataclass(frozen=True, slots=True)
class Reading:
    """One agent's place in one channel."""

    agent: str
    channel: str
    #: Who published there.
    writers: tuple[str, ...]
    #: Whether one message is handled after the other.
    in_order: bool
    #: What the log still holds: entry to key.
    log: dict[str, str]
    #: Entries ever added to it.
    added: int
    #: Counters of the cursor, ``position`` among them.
    counts: dict[str, int]
    #: Entries handed out and not settled.
    pending: int = 0
    #: Keys in the dead letters and in the rest of the agent's inbox.
    dead: tuple[str, ...] = ()
    queued: tuple[str, ...] = field(default=())

    def __getitem__(self, counter: str) -> int:
        return self.counts.get(counter, 0)

    @property
    def at_rest(self) -> bool:
        """Whether everything was read and has ended, also what was carried into the inbox."""
        return self["position"] == self.added and not self.pending and not self.queued

    def __str__(self) -> str:
        counts = ("handed_out", *ENDS, "missed", "position")
        parts = [f"{name} {self[name]}" for name in counts if self[name]]
        return f"{', '.join(parts)}, pending {self.pending}, added {self.added}, queued {len(self.queued)}"


def read(client: redis.Redis, agent: str, channel: str, writers: tuple[str, ...], in_order: bool) -> Reading:
    """Gather the evidence of one agent at one channel."""
    keys = subscriber_keys("agentbus", channel, agent)
    counts: Any = client.hgetall(keys.subscriber)
    facts: Any = client.xinfo_stream(keys.log)
    pending: Any = client.xpending(keys.log, agent)
    return Reading(
        agent=agent,
        channel=channel,
        writers=writers,
        in_order=in_order,
        log=logged(client, channel),
        added=int(facts["entries-added"]),
        counts={name.decode(): int(value) for name, value in counts.items() if value.isdigit()},
        pending=int(pending["pending"]),
        dead=tuple(books.dead_keys(client, f"agent.{agent}")),
        queued=tuple(books.queued_keys(client, f"agent.{agent}")),
    )


def logged(client: redis.Redis, channel: str) -> dict[str, str]:
    """Return what a log holds, in its order: entry to key."""
    log, found, after = channel_keys("agentbus", channel).log, dict[str, str](), b"0-0"
    while True:
        entries: Any = client.xrange(log, b"(" + after, "+", 1_000)
        for entry, fields in entries:
            found[entry.decode()] = str(orjson.loads(fields[b"message"])["body"]["content"]["key"])
            after = entry
        if len(entries) < 1_000:
            return found
