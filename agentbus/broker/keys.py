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
        "What `due` points at: `<id>` is the envelope, `<id>:state` its state with the lane. A state with "
        "`parked` holds a dead letter that waits for room in `dead`.",
        "publish, postpone, bury, reclaim; promote removes",
        "as long as something is due",
    ),
    KeyInfo(
        f"{_ADDRESS}dead",
        "stream",
        "Dead letters: `message` (or `raw:<field>` of an entry that was none, `raw_fields` if many), "
        "`state`, `reason`, "
        "`detail`, `lane`, `entry`, `owner`, `attempts`, `max_retries`.",
        "bury, reclaim, promote",
        "until somebody retries, resolves or drops it, or the retention of dead letters ends it",
    ),
    KeyInfo(
        f"{_ADDRESS}unannounced",
        "stream",
        "What is left of dead letters that went before a worker announced them: `letter` (its id), `reason`, "
        "`detail`, `attempts`, `max_retries`, `owner`, `message` (who sent what, without the body).",
        "retry_letter, resolve, drop; announced removes",
        "until announced; at most some 10,000",
    ),
    KeyInfo(
        f"{_ADDRESS}resolved",
        "stream",
        "Dead letters that somebody resolved: the fields of `dead` and `letter` (its id there), "
        "`resolved_at`, `resolution`, `resolved_by`.",
        "resolve",
        "trimmed before any dead letter is: by age and number",
    ),
    KeyInfo(
        f"{_ADDRESS}ended",
        "stream",
        "Messages that ended elsewhere than in a lane (expired while due, dropped dead letters): `message`, "
        "`state`, `outcome`. History, as the ended entries of a lane are; no consumer group.",
        "promote, drop, lapse",
        "trimmed with the lanes",
    ),
    KeyInfo(
        f"{_ADDRESS}cancelled",
        "hash",
        "Messages that were cancelled while they waited: `<source> <entry id>` to who cancelled it. They end "
        "when their turn comes; `source` is 0 for `returned`, 1 to 5 for the lanes.",
        "cancel; fetch, weed, reclaim remove",
        "as long as such a message waits",
    ),
    KeyInfo(
        f"{_ADDRESS}schedules",
        "hash",
        "Recurring messages whose target is this address: `<id>` is the definition (JSON: topic, schedule, "
        "timezone, message, owner, created_at, expires_at, misfire, …), `<id>:state` what changes (JSON: "
        "enabled, next_send_at, last_sent_at, sent, missed, ended_at; ms, server clock).",
        "schedule_add, schedule_pause, schedule_resume, tick",
        "until cancelled; those that had their last tick stay a day",
    ),
    KeyInfo(
        f"{_ADDRESS}ticks",
        "zset",
        "Schedule id, scored with its next tick (ms); one that has ended, with the time at which it goes. "
        "Paused ones are not here.",
        "schedule_add, schedule_pause, schedule_resume, tick",
        "as long as something recurs",
    ),
    KeyInfo(
        f"{_ADDRESS}archived",
        "hash",
        "How far the archive has taken this address: stream name (`outcomes`, `log`) to entry id. Nothing "
        "beyond it is trimmed while an archive is on; `border` (JSON) says where that is in each lane, "
        "`next` where it will be when the archive comes to `mark`.",
        "archived",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}retention",
        "hash",
        "How far retention has come: `pruned` (the last record of `outcomes` it has read, for the list in "
        "`pruned_for`), and what the archive has surely taken of `ended` and `resolved` (`mark…`, `safe:…`).",
        "prune, trim_ended",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}log",
        "stream",
        "A channel (`channel.<name>`, `project.<id>`, `system.<area>`): its messages in order, `message`. "
        "One consumer group for each subscribing agent, named after it.",
        "append, tick, notice",
        "trimmed by age, number and bytes",
    ),
    KeyInfo(
        f"{_ADDRESS}subscriber:<agent>",
        "hash",
        "One agent's place in a channel's log, beside the consumer group named after it: `joined` (ms), "
        "`last` (the entry last handed out), `position` (entries that were ever before it), `active` (the "
        "consumer that reads, where one does at a time), `gap` (the latest one: the entry behind it or `-`, "
        "how many or `?`, the entry before it); counters: handed_out = processed + expired + discarded + "
        "moved + vanished (removed while held, and not handled) + pending; missed (all that was removed "
        "and not handled, vanished ones too).",
        "subscribe, fetch_log, settle_log, hand_back, forget, remake_cursor, reclaim_log, unsubscribe",
        "until the cursor is forgotten",
    ),
    KeyInfo(
        f"{_ADDRESS}alive:<agent>",
        "hash",
        "The agent's consumers on a channel: as `alive` of an inbox.",
        "subscribe creates, beat raises, unsubscribe and reclaim_log delete",
        "as long as the agent reads the channel",
    ),
    KeyInfo(
        f"{_ADDRESS}started:<agent>",
        "hash",
        "On a channel: as `started` of an inbox.",
        "mark; unsubscribe and reclaim_log delete",
        "as long as the consumer",
    ),
    KeyInfo(
        f"{_ADDRESS}crashes:<agent>",
        "hash",
        "Entry id to the number of the agent's consumers that died while running it.",
        "reclaim_log; settle_log removes",
        "until the entry is settled",
    ),
    KeyInfo(
        f"{_ADDRESS}reads:<agent>",
        "stream",
        "What the agent was handed and how it ended: `delivered` with `count`, or `processed`, `expired`, "
        "`discarded`, `moved`; the entries, or `<first>..<last>`. The time is that of the record.",
        "fetch_log, settle_log",
        "the last 1,000",
    ),
    KeyInfo(
        f"{_ADDRESS}read",
        "hash",
        "Conversations (`dm:<a>:<b>`) only: agent to the entry of the log up to which it has read.",
        "conversation_read",
        "as long as the conversation",
    ),
    KeyInfo(
        f"{_ADDRESS}cursors",
        "hash",
        "Channel `system.errors` only: address to the last dead letter that was announced.",
        "notice",
        "as long as the channel",
    ),
    KeyInfo(
        f"{_ADDRESS}alive",
        "hash",
        "Consumer name to its beat: `<counter> <loop lag in ms> <serving|draining> <lease in ms>`. A name "
        "that is not here is fenced: it may not fetch or settle.",
        "join creates, beat raises, leave and reclaim delete",
        "as long as somebody serves the address",
    ),
    KeyInfo(
        f"{_ADDRESS}started",
        "hash",
        "Consumer name to the one suspect (`<source> <entry id>`) it has started; `<consumer> charges` while "
        "a takeover from it is under way that charges what it held with its death.",
        "mark, reclaim; leave and reclaim delete",
        "as long as the consumer, or the takeover from it",
    ),
    KeyInfo(
        f"{_ADDRESS}producer:<id>",
        "string",
        "The last batch of one publisher: first and last position, and the refused ones as JSON.",
        "publish, append",
        "PX: twice the publish deadline and 30 seconds",
    ),
    KeyInfo(
        f"{_ADDRESS}keys:<bucket>",
        "hash",
        "Idempotency keys: `<sender>/<key>` to digest and entry id, and `origin:<address>/<entry>/<purpose>` "
        "of what was carried here. Buckets `0` and `1` take turns, one "
        "window each; bucket `due` holds those of messages not due yet.",
        "publish, append, promote, carry",
        "`0` and `1` expire whole after two windows; `due` with its messages",
    ),
    KeyInfo(
        f"{_ADDRESS}loops:<bucket>",
        "hash",
        "When each sender has sent messages from within handlers in each conversation: "
        "`<sender>/<correlation id>` to `<ms>:<messages>`, oldest first, at most some 200. Buckets `0` and "
        "`1` take turns.",
        "publish, append",
        "each expires whole after two windows",
    ),
    KeyInfo(
        f"{_ADDRESS}owed",
        "zset",
        "Messages of which copies are owed to agents that are bound to their topic: message id, scored with "
        "the time (ms) from which others than the publisher make them.",
        "publish, append, tick; strike removes",
        "until the copies are made, a moment later",
    ),
    KeyInfo(
        f"{_ADDRESS}owed:messages",
        "hash",
        "What `owed` points at: message id to a line, `<stored at, ms> <lane>:<entry> <agents> <JSON: topic, "
        "priority, key, …>` (`-` for a delayed one, which has no entry), and the envelope.",
        "publish, append, tick; strike removes",
        "until the copies are made, a moment later",
    ),
    KeyInfo(
        f"{_ADDRESS}outcomes",
        "stream",
        "One record per settlement batch: `consumer`, `outcome`, and per stream the entry ids that ended so; "
        "`count` when only so many of them did.",
        "settle, postpone, bury, release, reclaim, promote, fetch, lapse, retry_letter, resolve, drop",
        "trimmed with the lanes",
    ),
    KeyInfo(
        f"{_ADDRESS}ledger",
        "hash",
        "Counters: accepted, processed, expired, cancelled, discarded, resolved, moved; the transitions "
        "retried, deferred, bounced, released, reclaimed, parked, redriven; vanished; `added:<stream>` "
        "(entries that scripts added); `handmade` (entries that no script added, as of the last sweep); "
        "`served` (when somebody first served the address, ms); `archived`, `archive_missing`, "
        "`archiving` (1 where ended messages count against the limit until they are archived) and "
        "`forgiven` (ended ones that do not, because they ended before); `announced` "
        "(how far its dead letters were announced, ms).",
        "every script",
        "as long as the address",
    ),
    KeyInfo(
        f"{_ADDRESS}policy",
        "hash",
        "The declared policy: `<field>` for the address, `<type>:<field>` for one message type; durations in "
        "ms under `<field>_ms`. `topics`: the types with a `ttl_ms` or `durability` of their own.",
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
        "{receipts.<message>}:rows",
        "hash",
        "What became of a message to named agents: `recipients` (JSON list), `from`, `channel`, `opened`, "
        "and per agent `<agent>:stored`, `delivered`, `read`, `processed`, `acknowledged` (ms, server "
        "clock), `unstored` and `ended` (why), `entry` (`<lane> <entry id>`). The first value of each stays.",
        "receipt_open before it is sent; receipt_mark",
        "PX: 7 days",
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
        "wake",
        "zset",
        "Address, scored with the time (ms) at which its `due` needs a look: the earliest due time, or the "
        "end of a worker's claim.",
        "publisher, subscriber, worker `due`; rebuilt by a slow sweep",
        "as long as something is due",
    ),
    KeyInfo(
        "ticking",
        "zset",
        "Address, scored with the time (ms) at which its `ticks` need a look.",
        "whoever adds a schedule, worker `recurring`; rebuilt by a slow sweep",
        "as long as something recurs",
    ),
    KeyInfo(
        "owing",
        "zset",
        "Address at which copies may be owed, scored with the time (ms) of the next look at its `owed`, or "
        "the end of a claim of whoever looks.",
        "publisher, before the first message there that is copied, and each minute; whoever looks",
        "for ever",
    ),
    KeyInfo(
        "replay:<id>",
        "string",
        "A replay as JSON: what was asked, the cursor of the next page, how many messages it has carried.",
        "whoever replays",
        "PX: the window of idempotency keys, since its last page",
    ),
    KeyInfo(
        "workers",
        "hash",
        "Worker id to JSON: host, process, roles with lag and last error, and when it was last seen.",
        "worker_beat",
        "a worker that stopped goes at once, one that died after ten minutes",
    ),
    KeyInfo(
        "agents",
        "zset",
        "Every known agent by name, scored with the time (ms) at which an instance of it was last seen.",
        "register, deregister; `agentbus agents forget` removes",
        "until forgotten",
    ),
    KeyInfo(
        "conversations:<name>",
        "set",
        "The conversations (`dm:<a>:<b>`) that an agent has.",
        "whoever sends a direct message, before it",
        "for ever",
    ),
    KeyInfo(
        "agent:<name>",
        "hash",
        "What an agent is: `type`, `capabilities` (JSON list), `registered_at` (ms), and `instance:<id>` of "
        "each process that serves it (JSON: host, pid, beat_ms, since, last_seen; ms, server clock).",
        "register, deregister",
        "until forgotten; an instance that ends goes at once, one that died after ten missed beats",
    ),
    KeyInfo(
        "bindings",
        "hash",
        "Durable wildcards: `<agent> <pattern>` to JSON: `since` (ms). What matches is copied into the inbox "
        "of the agent by whoever publishes it.",
        "subscriber, when an agent with bindings begins to be served; `agentbus bindings rm`",
        "until unbound, whether the agent is served or not",
    ),
    KeyInfo(
        "consents",
        "hash",
        "Who may have copies of what an inbox gets: `<inbox> <agent that serves it>` to a JSON "
        "list of agents, or `*`.",
        "subscriber, when an agent begins to be served",
        "until the agent is served without it",
    ),
    KeyInfo(
        "copies",
        "hash",
        "How bindings did: `<agent> <pattern> <what>` to a count; what: `copied` or why refused.",
        "publisher, after copying; removed with the binding",
        "as long as the binding",
    ),
    KeyInfo(
        "live:<topic>",
        "pub/sub channel",
        "What `Bus.emit` sends: the envelope as JSON. No key; at most once.",
        "emitter",
        "a moment",
    ),
    KeyInfo(
        "mirror:<pattern>",
        "pub/sub channel",
        "Stored messages for those who watch this pattern with `stored=True`: the envelope as JSON. "
        "Publishers ask the server which of these channels have listeners. No key; at most once.",
        "publisher, after storing",
        "a moment",
    ),
    KeyInfo(
        "archive",
        "hash",
        "Whether this deployment archives: `on` (1), `since` (ms). Retention then waits for the archive.",
        "worker `archive`",
        "until somebody turns the archive off",
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
