"""One inbox as plain Python: where every message is, and what each verb does to it.

Nothing here asks the server for a decision. Only entry ids (made by the server) are taken over from it,
and only when the model itself has moved a message; see `Message.entry`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentbus.broker.keys import SOURCES
from agentbus.message.policy import ALLOWANCE_MS, PRIORITIES

FATAL_CRASHES = 3
#: A time to live that has ended when the step that gave it is over, and one that never ends in a test.
SHORT_MS, LONG_MS = 2, 3_600_000

EntryId = tuple[int, int]


def parse_id(text: bytes) -> EntryId:
    """Return an entry id as two numbers."""
    time, _, sequence = text.partition(b"-")
    return int(time), int(sequence)


@dataclass
class Message:
    """One message and the one place where it is."""

    tag: str
    lane: str
    handmade: bool = False
    malformed: bool = False
    expired: bool = False
    key: tuple[str, str] | None = None
    #: waiting, held, due, dead or the outcome that ended it
    place: str = "waiting"
    #: Index of the stream it is in while it is waiting or held.
    source: int = 0
    #: Learnt from the server after each move; None = moved, not seen yet.
    entry: EntryId | None = None
    owner: str | None = None
    attempt: int = 0
    crashes: int = 0
    bounces: int = 0
    #: A consumer held it before it became due: it comes back to `returned`.
    was_held: bool = False
    due_ready: bool = False
    #: Cancelled while it waited: it ends when its turn comes.
    cancelled: bool = False
    #: Somebody deleted its entry while it was held.
    vanished: bool = False

    def wait(self, source: int) -> None:
        self.place, self.source, self.entry, self.owner = "waiting", source, None, None

    def end(self, outcome: str) -> None:
        self.place, self.owner = outcome, None

    @property
    def active(self) -> bool:
        return self.place in ("waiting", "held", "due", "dead")


@dataclass
class Wish:
    """One message of a batch to be published."""

    lane: str = "normal"
    ttl: int | None = None
    delay: int | None = None
    key: tuple[str, str] | None = None
    strict: bool = False


@dataclass
class InboxModel:
    """One inbox."""

    messages: dict[str, Message] = field(default_factory=dict)
    ledger: Counter[str] = field(default_factory=Counter)
    #: Consumers that hold a lease, with their beat as the server shows it.
    alive: dict[str, str] = field(default_factory=dict)
    started: dict[str, Message] = field(default_factory=dict)
    #: The dead whose takeover has not ended, and whose death is charged.
    charging: set[str] = field(default_factory=set)
    #: Key to (digest, the message that used it).
    keys: dict[str, tuple[str, Message]] = field(default_factory=dict)
    served: bool = False
    #: Hand-made entries that the server has counted (at the last sweep).
    handmade_counted: int = 0
    #: Lanes the index lists.
    listed: set[str] = field(default_factory=set)

    # --- looking ---

    def at(self, place: str) -> list[Message]:
        return [message for message in self.messages.values() if message.place == place]

    def waiting(self, source: int) -> list[Message]:
        found = [one for one in self.at("waiting") if one.source == source]
        return sorted(found, key=lambda one: one.entry or (0, 0))

    def held_by(self, consumer: str) -> list[Message]:
        """What a consumer holds, in the order in which it is reclaimed."""
        found = [one for one in self.at("held") if one.owner == consumer]
        return sorted(found, key=lambda one: (one.source, one.entry or (0, 0)))

    def unsettled(self) -> int:
        gone = ("processed", "expired", "discarded", "cancelled", "vanished")
        ended = sum(self.ledger[name] for name in gone)
        return self.ledger["accepted"] + self.handmade_counted - ended - len(self.at("dead"))

    # --- publish ---

    def publish(self, wishes: Sequence[tuple[str, Wish]], limit: int) -> list[str]:
        """Return for each message '' (stored), 'due' or the refusal."""
        return [self._publish(tag, wish, limit) for tag, wish in wishes]

    def _publish(self, tag: str, wish: Wish, limit: int) -> str:
        if self.unsettled() >= limit:
            return "!full"
        if wish.strict and not self.served:
            return "!unknown"
        if wish.key is not None and wish.key[0] in self.keys:
            digest, _ = self.keys[wish.key[0]]
            return "!duplicate" if digest == wish.key[1] else "!conflict"
        if wish.ttl is not None and wish.delay is not None and wish.ttl <= wish.delay:
            return "!expires"
        message = Message(tag, wish.lane, expired=wish.ttl == SHORT_MS, key=wish.key)
        self.messages[tag] = message
        self.ledger["accepted"] += 1
        if wish.key is not None:
            self.keys[wish.key[0]] = (wish.key[1], message)
        if wish.delay is not None:
            message.place = "due"
            message.due_ready = wish.delay < LONG_MS
            return "due"
        self._add_to_lane(message)
        return ""

    def _add_to_lane(self, message: Message) -> None:
        message.wait(SOURCES.index(message.lane))
        self.ledger[f"added:{message.lane}"] += 1
        self.listed.add(message.lane)

    def add_by_hand(self, tag: str, source: int, malformed: bool, crashes: int = 0) -> None:
        message = Message(tag, SOURCES[source], handmade=True, malformed=malformed, crashes=crashes)
        message.wait(source)
        self.messages[tag] = message

    # --- fetch ---

    def serving_order(self, now: int) -> list[Message]:
        """All that may be handed out, in order: returned first, then by min(oldest, now) + allowance."""
        heads = {
            lane: self.waiting(index)
            for index, lane in enumerate(SOURCES)
            if lane in self.listed and self.waiting(index)
        }
        return self.waiting(0) + merged(heads, now)

    def would_fetch(self, most: int, now: int) -> list[str]:
        """The messages that a fetch at this moment hands out."""
        return [one.tag for one in self.serving_order(now) if not one.expired and not one.cancelled][:most]

    def fetch(self, consumer: str, most: int, now: int) -> list[Message]:
        """Hand out; expired ones met on the way end."""
        handed: list[Message] = []
        for message in self.serving_order(now):
            if len(handed) == most:
                break
            if message.cancelled:
                self.end_cancelled(message)
            elif message.expired:
                self._expire(message)
            else:
                message.place, message.owner = "held", consumer
                handed.append(message)
        return handed

    def take_natively(self, consumer: str, message: Message) -> None:
        """A parked read hands out whatever is next in a stream, expired or not."""
        message.place, message.owner = "held", consumer

    def _expire(self, message: Message) -> None:
        message.end("expired")
        self.ledger["expired"] += 1

    # --- cancelling ---

    def cancel(self, message: Message) -> str:
        """What the script answers; the message must be waiting, held or due."""
        if message.place == "held":
            return f"held {message.owner}" if not message.vanished else "gone"
        if message.place == "due":
            self.end_cancelled(message)
            # The window of a key has begun when its message came due; then it stays.
            if message.key is not None and not message.was_held:
                del self.keys[message.key[0]]
            return "cancelled"
        message.cancelled = True
        for head in self.waiting(message.source):
            if not head.cancelled:
                break
            self.end_cancelled(head)
        return "marked" if message.place == "waiting" else "cancelled"

    def end_cancelled(self, message: Message) -> None:
        message.end("cancelled")
        self.ledger["cancelled"] += 1

    # --- settling ---

    def settle(self, outcome: str, messages: Iterable[Message]) -> int:
        count = 0
        for message in messages:
            message.end(outcome)
            self.ledger[outcome] += 1
            count += 1
        return count

    def _vanish(self, message: Message) -> None:
        message.end("vanished")
        self.ledger["vanished"] += 1

    def postpone(self, message: Message, kind: str, ready: bool) -> bool:
        if message.vanished:
            self._vanish(message)
            return False
        message.attempt += kind == "retried"
        message.bounces += kind == "bounced"
        message.place, message.owner, message.entry = "due", None, None
        message.was_held, message.due_ready = True, ready
        self.ledger[kind] += 1
        return True

    def bury(self, message: Message) -> bool:
        if message.vanished:
            self._vanish(message)
            return False
        message.end("dead")
        return True

    def release(self, messages: Iterable[Message]) -> int:
        count = 0
        for message in messages:
            if message.vanished:
                self._vanish(message)
            elif message.expired:
                self._expire(message)
            else:
                message.wait(0)
                self.ledger["released"] += 1
                self.ledger["added:returned"] += 1
                count += 1
        return count

    # --- time and death ---

    def promote(self, messages: Iterable[Message]) -> int:
        count = 0
        for message in messages:
            if message.expired:
                self._expire(message)
                if message.key is not None:
                    del self.keys[message.key[0]]
                continue
            if message.was_held:
                message.wait(0)
                self.ledger["added:returned"] += 1
            else:
                self._add_to_lane(message)
            message.was_held = False
            count += 1
        return count

    def reclaim(self, consumer: str, most: int, charge: bool) -> bool:
        """One step of a takeover; returns whether anything is left with the consumer."""
        suspect = self.started.get(consumer)
        step = self.held_by(consumer)
        for message in step[:most]:
            self._reclaim_one(message, charge, message is suspect)
        return bool(self.held_by(consumer))

    def taken_over(self, consumer: str) -> None:
        """Note that nothing of a consumer is left."""
        self.started.pop(consumer, None)
        self.charging.discard(consumer)

    def _reclaim_one(self, message: Message, charge: bool, started: bool) -> None:
        if message.vanished:
            self._vanish(message)
            return
        if message.cancelled:
            self.end_cancelled(message)
            return
        if message.expired:
            self._expire(message)
            return
        if charge and not message.malformed and (message.crashes == 0 or started):
            message.crashes += 1
        if message.crashes >= FATAL_CRASHES:
            message.end("dead")
            return
        message.wait(0)
        self.ledger["reclaimed"] += 1
        self.ledger["added:returned"] += 1


def merged(heads: dict[str, list[Message]], now: int) -> list[Message]:
    """Brute force: again and again the lane whose head has the lowest score; the higher priority in a tie."""
    left = {lane: list(messages) for lane, messages in heads.items()}
    order: list[Message] = []
    while any(left.values()):
        lane = min(
            (lane for lane in PRIORITIES if left.get(lane)),
            key=lambda lane: min((left[lane][0].entry or (0, 0))[0], now) + ALLOWANCE_MS[lane],
        )
        order.append(left[lane].pop(0))
    return order
