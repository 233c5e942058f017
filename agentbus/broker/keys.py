"""The name of every Redis key and channel; what each holds is in `key_catalogue`.

Everything of one address shares the hash tag ``{<address>}``, so that each script touches one slot.
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
class InboxKeys:
    """The keys of one inbox, precomputed: they are sent with every script call."""

    address: str
    sources: tuple[str, ...]
    lanes: str
    due: str
    delayed: str
    dead: str
    unannounced: str
    resolved: str
    ended: str
    #: Marks of what was cancelled while it waited.
    cancelled: str
    schedules: str
    ticks: str
    archived: str
    retention: str
    alive: str
    started: str
    keys_even: str
    keys_odd: str
    keys_due: str
    loops_even: str
    loops_odd: str
    owed: str
    owed_messages: str
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
        unannounced=root + "unannounced",
        resolved=root + "resolved",
        ended=root + "ended",
        cancelled=root + "cancelled",
        schedules=root + "schedules",
        ticks=root + "ticks",
        archived=root + "archived",
        retention=root + "retention",
        alive=root + "alive",
        started=root + "started",
        keys_even=root + "keys:0",
        keys_odd=root + "keys:1",
        keys_due=root + "keys:due",
        loops_even=root + "loops:0",
        loops_odd=root + "loops:1",
        owed=root + "owed",
        owed_messages=root + "owed:messages",
        outcomes=root + "outcomes",
        ledger=root + "ledger",
        policy=root + "policy",
        producer=root + "producer:",
        nudge=root + "nudge",
    )


@dataclass(frozen=True, slots=True)
class ChannelKeys:
    """The keys of one channel: ``channel.<name>``, ``project.<id>`` or ``system.<area>``."""

    address: str
    log: str
    ledger: str
    policy: str
    keys_even: str
    keys_odd: str
    loops_even: str
    loops_odd: str
    owed: str
    owed_messages: str
    schedules: str
    ticks: str
    archived: str
    cursors: str
    #: Begins the name of each publisher's record.
    producer: str


def channel_keys(prefix: str, address: str) -> ChannelKeys:
    """Return the keys of a channel."""
    root = f"{prefix}:{{{address}}}:"
    return ChannelKeys(
        address=address,
        log=root + "log",
        ledger=root + "ledger",
        policy=root + "policy",
        keys_even=root + "keys:0",
        keys_odd=root + "keys:1",
        loops_even=root + "loops:0",
        loops_odd=root + "loops:1",
        owed=root + "owed",
        owed_messages=root + "owed:messages",
        schedules=root + "schedules",
        ticks=root + "ticks",
        archived=root + "archived",
        cursors=root + "cursors",
        producer=root + "producer:",
    )


@dataclass(frozen=True, slots=True)
class SubscriberKeys:
    """The keys of one agent's place in one channel."""

    address: str
    log: str
    alive: str
    started: str
    subscriber: str
    crashes: str
    reads: str


def subscriber_keys(prefix: str, address: str, agent: str) -> SubscriberKeys:
    """Return the keys of an agent's place in a channel."""
    root = f"{prefix}:{{{address}}}:"
    return SubscriberKeys(
        address=address,
        log=root + "log",
        alive=f"{root}alive:{agent}",
        started=f"{root}started:{agent}",
        subscriber=f"{root}subscriber:{agent}",
        crashes=f"{root}crashes:{agent}",
        reads=f"{root}reads:{agent}",
    )


def reply_log(prefix: str, process: str) -> str:
    """Return the stream on which one process receives its answers."""
    return f"{prefix}:{{reply.{process}}}:log"


def receipts(prefix: str, message_id: str) -> str:
    """Return the receipts of one message."""
    return f"{prefix}:{{receipts.{message_id}}}:rows"


def addresses(prefix: str) -> str:
    """Return the set of addresses in use."""
    return f"{prefix}:addresses"


def policy(prefix: str, address: str) -> str:
    """Return the hash of the policies of one address."""
    return f"{prefix}:{{{address}}}:policy"


def wake(prefix: str) -> str:
    """Return the sorted set of addresses by the time their due messages need a look."""
    return f"{prefix}:wake"


def ticking(prefix: str) -> str:
    """Return the sorted set of addresses by the time their schedules need a look."""
    return f"{prefix}:ticking"


def owing(prefix: str) -> str:
    """Return the sorted set of addresses by the time their owed copies need a look."""
    return f"{prefix}:owing"


def owed(prefix: str, address: str) -> tuple[str, str]:
    """Return the index of the messages of an address whose copies are owed, and what it points at."""
    found = inbox_keys(prefix, address)
    return found.owed, found.owed_messages


def workers(prefix: str) -> str:
    """Return the hash of worker processes."""
    return f"{prefix}:workers"


def agents(prefix: str) -> str:
    """Return the sorted set of known agents."""
    return f"{prefix}:agents"


def agent(prefix: str, name: str) -> str:
    """Return the record of one agent."""
    return f"{prefix}:agent:{name}"


def conversations(prefix: str, name: str) -> str:
    """Return the set of conversations of one agent."""
    return f"{prefix}:conversations:{name}"


def read_up_to(prefix: str, conversation: str) -> str:
    """Return the hash of how far each of two agents has read what they say to each other."""
    return f"{prefix}:{{{conversation}}}:read"


def replay(prefix: str, replay_id: str) -> str:
    """Return the record of one replay."""
    return f"{prefix}:replay:{replay_id}"


def archive(prefix: str) -> str:
    """Return the hash that says whether this deployment archives."""
    return f"{prefix}:archive"


def bindings(prefix: str) -> str:
    """Return the hash of durable wildcards."""
    return f"{prefix}:bindings"


def consents(prefix: str) -> str:
    """Return the hash of who may have copies of what an inbox gets."""
    return f"{prefix}:consents"


def copies(prefix: str) -> str:
    """Return the hash of the counters of bindings."""
    return f"{prefix}:copies"


def live(prefix: str, topic: str) -> str:
    """Return the pub/sub channel of live events of a topic."""
    return f"{prefix}:live:{topic}"


def mirror(prefix: str, pattern: str) -> str:
    """Return the pub/sub channel of stored messages that fall under a pattern."""
    return f"{prefix}:mirror:{pattern}"


def check_prefix(prefix: str) -> str:
    """Return a key prefix; braces or colons in it would break hash tags, so they raise `InvalidValue`."""
    if not _PREFIX.fullmatch(prefix):
        raise InvalidValue("prefix", f"{prefix!r} is not 1 to 63 of letters, digits, '_', '.' and '-'")
    return prefix
