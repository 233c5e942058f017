"""The catalogue of every Redis key and channel: name, type, content, writer and lifetime.

Everything of one address shares the hash tag ``{<address>}``, so that each script touches one slot.
Whoever brings a feature adds its keys to `CATALOGUE` first; ``docs/keys.md`` is tested against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentbus.errors import InvalidValue
from agentbus.message.policy import PRIORITIES

GROUP = "inbox"
#: The streams of an inbox in the order scripts number them: 0 is ``returned``, 1 is ``critical``, …
SOURCES: tuple[str, ...] = ("returned", *PRIORITIES)

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One row of the catalogue."""

    #: The key with its variable parts in angle brackets, without the prefix.
    pattern: str
    type: str
    content: str
    writer: str
    lifetime: str


_ADDRESS = "{<address>}:"
CATALOGUE: tuple[KeyInfo, ...] = (
    KeyInfo(
        f"{_ADDRESS}lane:<priority>",
        "stream",
        "Messages of one priority: waiting, in flight and, until trimmed, ended. Fields: `message` (the "
        "envelope as JSON) and, when needed, `state` (JSON: attempt, crashes, expires, first_failure, …). "
        "Consumer group `inbox`.",
        "publish and promote add; fetch and the parked read hand out; settle acknowledges; trim removes",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}returned",
        "stream",
        "Messages that a consumer held and gave back or lost, and retries that came due. Fields as in a "
        "lane. Read before the lanes.",
        "release, reclaim, promote",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}lanes",
        "zset",
        "Lanes with something waiting; the score is the time of the oldest in ms plus the allowance of "
        "the priority.",
        "publish, promote, fetch, sweep",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}due",
        "zset",
        "Delayed and retried messages: message id, scored with the time they come due (ms, server clock).",
        "publish, postpone; promote removes",
        "as long as something is due",
    ),
    KeyInfo(
        f"{_ADDRESS}delayed",
        "hash",
        "What `due` points at: `<id>` is the envelope, `<id>:state` its state with the lane.",
        "publish, postpone; promote removes",
        "as long as something is due",
    ),
    KeyInfo(
        f"{_ADDRESS}dead",
        "stream",
        "Dead letters: `message` (or `raw:<field>` of an entry that was none), `state`, `reason`, "
        "`detail`, `lane`, `entry`, `owner`, `attempts`, `max_retries`.",
        "bury, reclaim",
        "until somebody removes it: nothing trims dead letters",
    ),
    KeyInfo(
        f"{_ADDRESS}alive",
        "hash",
        "Consumer name to its beat: `<counter> <loop lag in ms> <serving|draining>`. A name that is not "
        "here is fenced: it may not fetch or settle.",
        "join creates, beat raises, leave and reclaim delete",
        "as long as somebody serves the address",
    ),
    KeyInfo(
        f"{_ADDRESS}started",
        "hash",
        "Consumer name to the one suspect (`<source> <entry id>`) it has started.",
        "mark; leave and reclaim delete",
        "as long as the consumer",
    ),
    KeyInfo(
        f"{_ADDRESS}producer:<id>",
        "string",
        "The last batch of one publisher: first and last position, and the refused ones as JSON.",
        "publish",
        "PX: twice the publish deadline and 30 seconds",
    ),
    KeyInfo(
        f"{_ADDRESS}keys:<bucket>",
        "hash",
        "Idempotency keys: `<sender>/<key>` to digest and entry id. Buckets `0` and `1` take turns, one "
        "window each; bucket `due` holds those of messages not due yet.",
        "publish, promote",
        "`0` and `1` expire whole after two windows; `due` with its messages",
    ),
    KeyInfo(
        f"{_ADDRESS}outcomes",
        "stream",
        "One record per settlement batch: `consumer`, `outcome`, and per stream the entry ids that ended so.",
        "settle, postpone, bury, release, reclaim, promote, fetch",
        "trimmed with the lanes",
    ),
    KeyInfo(
        f"{_ADDRESS}ledger",
        "hash",
        "Counters: accepted, processed, expired, cancelled, discarded, resolved, moved; the transitions "
        "retried, deferred, bounced, released, reclaimed; vanished; `added:<stream>` (entries "
        "that scripts added); `served` (when somebody first served the address, ms).",
        "every script",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}policy",
        "hash",
        "The declared policy of the address.",
        "declare",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}nudge",
        "pub/sub channel",
        "A new earliest due time in ms: the timers of the address look at once. No key; saves time and "
        "guards nothing.",
        "publish, postpone",
        "a moment",
    ),
    KeyInfo(
        "{reply.<process>}:log",
        "stream",
        "Answers to one process that asked: `message`.",
        "reply",
        "PX: an hour after the process last renewed it",
    ),
    KeyInfo(
        "probe",
        "string",
        "Written to find out whether WAITAOF waits for a sync.",
        "publisher, once",
        "PX: five seconds",
    ),
    KeyInfo(
        "barrier",
        "string",
        "Written before WAIT or WAITAOF, which then cover everything stored earlier.",
        "publisher, when messages are to be on disk or replicated",
        "PX: a minute",
    ),
    KeyInfo(
        "addresses",
        "set",
        "Every address in use.",
        "publisher and subscriber, before their first write, at reconnect and each minute",
        "for ever",
    ),
    KeyInfo(
        "probe",
        "string",
        "Written twice to find out whether WAITAOF of this server waits for the disk.",
        "the first publisher that needs to know",
        "PX: 5 seconds",
    ),
    KeyInfo(
        "barrier",
        "string",
        "The small write before WAIT or WAITAOF that makes them cover everything stored earlier.",
        "publisher, for `disk` and `replicated`",
        "PX: a minute",
    ),
)


@dataclass(frozen=True, slots=True)
class InboxKeys:
    """The keys of one inbox, precomputed: they are sent with every script call."""

    address: str
    sources: tuple[str, ...]
    lanes: str
    due: str
    delayed: str
    dead: str
    alive: str
    started: str
    keys_even: str
    keys_odd: str
    keys_due: str
    outcomes: str
    ledger: str
    policy: str
    #: Begins the name of each publisher's record.
    producer: str
    #: The pub/sub channel on which a new earliest due time is announced.
    nudge: str

    @property
    def priority_lanes(self) -> tuple[str, ...]:
        """The five lanes without ``returned``."""
        return self.sources[1:]


def inbox_keys(prefix: str, address: str) -> InboxKeys:
    """Return the keys of the inbox ``agent.<name>``."""
    root = f"{prefix}:{{{address}}}:"
    return InboxKeys(
        address=address,
        sources=(root + "returned", *(f"{root}lane:{priority}" for priority in PRIORITIES)),
        lanes=root + "lanes",
        due=root + "due",
        delayed=root + "delayed",
        dead=root + "dead",
        alive=root + "alive",
        started=root + "started",
        keys_even=root + "keys:0",
        keys_odd=root + "keys:1",
        keys_due=root + "keys:due",
        outcomes=root + "outcomes",
        ledger=root + "ledger",
        policy=root + "policy",
        producer=root + "producer:",
        nudge=root + "nudge",
    )


def reply_log(prefix: str, process: str) -> str:
    """Return the stream on which one process receives its answers."""
    return f"{prefix}:{{reply.{process}}}:log"


def addresses(prefix: str) -> str:
    """Return the set of addresses in use."""
    return f"{prefix}:addresses"


def check_prefix(prefix: str) -> str:
    """Return a key prefix; braces or colons in it would break hash tags, so they raise `InvalidValue`."""
    if not _PREFIX.fullmatch(prefix):
        raise InvalidValue("prefix", f"{prefix!r} is not 1 to 63 of letters, digits, '_', '.' and '-'")
    return prefix
