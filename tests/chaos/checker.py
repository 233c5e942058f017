"""The judge: what was promised against what happened. Pure: records in, a verdict out.

The words are those of Jepsen's checker ``total-queue``: https://github.com/jepsen-io/jepsen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

from tests.chaos.history import Record
from tests.chaos.unwritten import HANDED_OUT, HELD_BACK, lost_unwritten

OWNER_DEATH = "death of the owner"
RETRY = "retry after a failure"
DEFERRAL = "deferred by the handler"
BY_HAND = "dead letter handed out again by a person"
LEASE_LOST = "the owner lost its lease"
BROKER_RESTART = "restart of the broker"
PUBLISHER_REPEAT = "repeat by the successor of a killed publisher"


@dataclass(slots=True)
class Verdict:
    """What the histories show."""

    #: Different messages that somebody tried to publish, and what they were told.
    attempts: int = 0
    stored: int = 0
    uncertain: int = 0
    refused: int = 0
    #: Different messages whose handler ended well.
    handled: int = 0
    dead: int = 0
    queued: int = 0
    #: Ended otherwise: expired, dropped, resolved.
    ended: int = 0
    #: Uncertain to their publisher, but handled.
    recovered: int = 0
    #: Stored, but neither handled, nor dead, nor still queued, nor ended otherwise.
    lost: list[str] = field(default_factory=list)
    #: Stored, and gone with the last steps of a server that was killed before it had written them.
    unwritten: list[str] = field(default_factory=list)
    #: How the lost ones lie among the messages of their writer: ``prefix``, ``middle``, ``postfix``.
    lost_where: Counter[str] = field(default_factory=Counter)
    #: Handled, but never published.
    unexpected: list[str] = field(default_factory=list)
    #: Deliveries beyond the first, by cause.
    duplicates: Counter[str] = field(default_factory=Counter)
    #: Deliveries beyond the first that nothing explains.
    unattributed: list[str] = field(default_factory=list)
    #: Second deliveries that claimed to be first ones.
    unmarked: list[str] = field(default_factory=list)
    #: Second deliveries without a mark of which the server had not written the first when it was killed.
    forgotten: int = 0
    #: Message ids that two different messages carried.
    shared_ids: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Add the verdict of another run."""
        for counted in fields(self):
            mine, theirs = getattr(self, counted.name), getattr(other, counted.name)
            setattr(self, counted.name, mine + theirs)

    @property
    def problems(self) -> list[str]:
        """Everything that breaks a promise, in words; empty when all held."""
        named = {
            "lost": self.lost,
            "unexpected": self.unexpected,
            "duplicates without a cause": self.unattributed,
            "redelivered but not marked so": self.unmarked,
            "message ids used twice": self.shared_ids,
        }
        return [f"{len(found)} {name}: {', '.join(found[:5])}" for name, found in named.items() if found]


def check(
    records: Sequence[Record],
    dead: Collection[str] = (),
    queued: Collection[str] = (),
    ended: Collection[str] = (),
    writes_late: bool = False,
) -> Verdict:
    """Judge a history; ``dead`` and ``queued`` are the keys found in the broker after the drain.

    ``ended`` are those of messages that ended without being handled, by the books or the archive.
    ``writes_late``: a kill may take the server's last steps along, as ``appendfsync everysec`` allows.
    """
    keys = _keys_by_event(records)
    handled = {record.key for record in records if record.event == "end" and record.note == "processed"}
    stored = keys["stored"]
    missing = stored - handled - set(dead) - set(queued) - set(ended)
    unwritten = lost_unwritten(records, missing) if writes_late else set()
    answered = stored | keys["refused"]
    unanswered = keys["attempt"] - answered
    verdict = Verdict(
        attempts=len(keys["attempt"]),
        stored=len(stored),
        uncertain=len(unanswered),
        refused=len(keys["refused"] - stored),
        handled=len(handled),
        dead=len(set(dead)),
        queued=len(set(queued)),
        ended=len(set(ended) - handled),
        recovered=len(unanswered & handled),
        lost=sorted(missing - unwritten),
        unwritten=sorted(unwritten),
        unexpected=sorted((keys["begin"] | handled) - keys["attempt"]),
    )
    verdict.lost_where = _where(stored, verdict.lost)
    _Duplicates(records, verdict, writes_late).judge()
    return verdict


def _keys_by_event(records: Iterable[Record]) -> defaultdict[str, set[str]]:
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.key:
            keys[record.event].add(record.key)
    return keys


def writer_and_number(key: str) -> tuple[str, int]:
    """Split the name of a message."""
    writer, _, number = key.rpartition("-")
    return writer, int(number)


def _where(stored: Iterable[str], lost: Iterable[str]) -> Counter[str]:
    """Say for each lost message whether its writer's first, last or other ones went with it."""
    missing = set(lost)
    if not missing:
        return Counter()
    by_writer: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for key in stored:
        writer, number = writer_and_number(key)
        by_writer[writer].append((number, key))
    where: Counter[str] = Counter()
    for written in by_writer.values():
        there = [key not in missing for _, key in sorted(written)]
        gone = there.count(False)
        prefix = there.index(True) if True in there else gone
        postfix = there[::-1].index(True) if True in there else 0
        where.update(prefix=prefix, postfix=postfix, middle=gone - prefix - postfix)
    return +where


class _Duplicates:
    """Finds a cause for each delivery beyond a message's first."""

    def __init__(self, records: Sequence[Record], verdict: Verdict, writes_late: bool) -> None:
        self._verdict = verdict
        self._writes_late = writes_late
        self._begins: defaultdict[str, list[Record]] = defaultdict(list)
        self._ends: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self._killed_at: dict[int, float] = {}
        self._fenced_at: defaultdict[int, list[float]] = defaultdict(list)
        self._broker_killed_at: list[float] = []
        #: Message id to the moments at which somebody asked for its letter to be handed out again.
        self._asked_at: defaultdict[str, list[float]] = defaultdict(list)
        #: Attempts whose process died before it could write what came of them.
        self._open_attempts: Counter[str] = Counter()
        self._idempotent: set[str] = set()
        #: Person and letter to the moment of the latest wish.
        self._asking: dict[tuple[int, str], float] = {}
        for record in records:
            self._sort_in(record)

    def _sort_in(self, record: Record) -> None:
        match record.event:
            case "begin":
                self._begins[record.message_id].append(record)
            case "end":
                self._ends[record.message_id, record.pid].append(record)
            case "attempt":
                self._open_attempts[record.key] += 1
                if record.idempotent:
                    self._idempotent.add(record.key)
            case "stored" | "refused" | "uncertain":
                self._open_attempts[record.key] -= 1
            case "killed":
                self._killed_at[record.pid] = record.at
            # A frozen owner cannot say that it lost its lease; whoever froze it can.
            case "fenced" | "frozen":
                self._fenced_at[record.pid].append(record.at)
            case "asked" | "told":
                self._sort_in_wish(record)
            case "broker_killed":
                self._broker_killed_at.append(record.at)

    def _sort_in_wish(self, record: Record) -> None:
        wish = (record.pid, record.letter)
        if record.event == "asked" and record.note in ("retry", "edit"):
            self._asked_at[record.message_id].append(record.at)
            self._asking[wish] = record.at
        elif record.event == "told" and record.note.startswith("gone") and wish in self._asking:
            # Somebody else was faster: it is that one's doing.
            self._asked_at[record.message_id].remove(self._asking.pop(wish))

    def judge(self) -> None:
        """Fill in the verdict."""
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for message_id, begins in self._begins.items():
            keys = sorted({begin.key for begin in begins})
            if len(keys) > 1:
                self._verdict.shared_ids.append(f"{message_id} ({', '.join(keys)})")
            ids[begins[0].key].append(message_id)
            for before, after in pairwise(begins):
                self._judge_delivery(before, after)
        for key, found in ids.items():
            if len(found) > 1:
                self._judge_publishes(key, len(found) - 1)

    def _judge_publishes(self, key: str, extra: int) -> None:
        explained = 0 if key in self._idempotent else min(extra, max(0, self._open_attempts[key]))
        if explained:
            self._verdict.duplicates[PUBLISHER_REPEAT] += explained
        self._verdict.unattributed += [f"{key} (published twice)"] * (extra - explained)

    def _judge_delivery(self, before: Record, after: Record) -> None:
        cause = self._cause(before, after)
        if cause is None:
            self._verdict.unattributed.append(f"{after.key} (delivered twice)")
            return
        self._verdict.duplicates[cause] += 1
        if not after.redelivered and cause not in (DEFERRAL, BY_HAND):
            if self._is_forgotten(before, after):
                self._verdict.forgotten += 1
            else:
                self._verdict.unmarked.append(after.key)

    def _is_forgotten(self, before: Record, after: Record) -> bool:
        """Whether a server that writes late was killed before it had written that it handed this out."""
        if not self._writes_late:
            return False
        begun, latest = before.at - HANDED_OUT, min(after.at, before.at + HELD_BACK)
        return any(begun <= at <= latest for at in self._broker_killed_at)

    def _cause(self, before: Record, after: Record) -> str | None:
        ended = self._ended(before)
        if ended == "failed" and after.attempt == before.attempt + 1:
            return RETRY
        # A new life: nobody can have begun it before.
        if any(before.at <= at <= after.at for at in self._asked_at[after.message_id]):
            return BY_HAND
        owner_died = before.at <= self._killed_at.get(before.pid, -1.0) <= after.at
        # A deferral leaves no mark: with one, the owner died before it was settled, or somebody died later
        # who held the message and had not begun it.
        if ended == "deferred" and not (owner_died and after.redelivered):
            return DEFERRAL
        if owner_died:
            return OWNER_DEATH
        if any(before.at <= at <= after.at for at in self._fenced_at[before.pid]):
            return LEASE_LOST
        if any(before.at <= at <= after.at for at in self._broker_killed_at):
            return BROKER_RESTART
        # Handed out before the kill, and begun after it.
        if self._is_forgotten(before, after):
            return BROKER_RESTART
        return None

    def _ended(self, begin: Record) -> str | None:
        """Return how the delivery that began there ended, if it did."""
        ends = self._ends[begin.message_id, begin.pid]
        return next((end.note for end in ends if end.at >= begin.at), None)
