"""The judge of messages to named agents, direct ones and copies. Pure: what is found and histories in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from agentbus import Receipt
from tests.chaos.checker import RETRY
from tests.chaos.history import Record
from tests.chaos.judges import Finding
from tests.chaos.mail import Mail, Writer
from tests.chaos.mishaps import Mishaps

#: What breaks a promise, each counted also where there is none.
WATCHED = (
    "lost",
    "copies lost",
    "missing from their log",
    "in a log twice",
    "unexpected",
    "stored twice",
    "without a cause",
    "not marked as redelivered",
    "receipts missing",
    "receipts that say more than happened",
    "receipts that say less",
    "refused, and handled all the same",
    "left unread",
)
#: Seconds by which a receipt may seem early: its times are whole milliseconds, and a process can be held up
#: between what happens and the line that it writes about it.
_TOLERANCE = 0.05


def judge_mail(mail: Mail, writers: Mapping[str, Writer], records: Sequence[Record]) -> Finding:
    """Everything stored is handled or a dead letter, copies included, once; and receipts tell the truth."""
    finding = Finding(Counter(dict.fromkeys(WATCHED, 0)))
    _Judgement(mail, writers, records, finding).judge()
    return finding


class _Judgement:
    """One run."""

    def __init__(
        self, mail: Mail, writers: Mapping[str, Writer], records: Sequence[Record], finding: Finding
    ) -> None:
        self._mail = mail
        self._writers = writers
        self._finding = finding
        self._mishaps = Mishaps(records)
        self._attempts: Counter[str] = Counter(r.key for r in records if r.event == "attempt")
        finding.counts["made good"] = sum(r.copies for r in records if r.event == "copy_made_good")
        #: What a sender was told: of the message itself, and of single recipients.
        self._stored = [r for r in records if r.event == "stored"]
        self._refused = [r for r in records if r.event == "refused" and r.agent and r.message_id]
        #: Agent and message id to what its handlers wrote.
        self._begins: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        self._ends: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        for record in records:
            if record.event in ("begin", "end"):
                found = self._begins if record.event == "begin" else self._ends
                found[record.agent, record.message_id].append(record)

    def judge(self) -> None:
        """Fill in the finding."""
        self._count()
        self._judge_losses()
        self._judge_logs()
        self._judge_identity()
        self._judge_deliveries()
        self._judge_receipts()
        self._judge_refusals()
        unread = [f"{many} by {agent} in {name}" for (name, agent), many in self._mail.unread.items() if many]
        self._finding.object("left unread", unread)

    def _writer(self, key: str) -> Writer:
        return self._writers[key.rpartition("-")[0]]

    def _count(self) -> None:
        processed = {(r.key, r.agent) for ends in self._ends.values() for r in ends if r.note == "processed"}
        self._done = processed | {(key, agent) for agent, keys in self._mail.dead.items() for key in keys}
        self._finding.counts.update(
            {
                "messages": len(self._attempts),
                "handled": len(processed),
                "dead letters": sum(map(len, self._mail.dead.values())),
                "refused": len({(r.message_id, r.agent) for r in self._refused}),
                "receipts": sum(map(len, self._mail.receipts.values())),
            }
        )

    # --- messages ---

    def _judge_losses(self) -> None:
        promised = {(r.key, r.agent) for r in self._stored if r.agent}
        for record in self._stored:
            if not record.agent and not self._writer(record.key).named(record.key):
                promised |= {(record.key, agent) for agent in self._writer(record.key).addressed(record.key)}
        self._finding.counts["promised to somebody"] += len(promised)
        self._finding.object("lost", _shown(promised - self._done))
        copies = self._copies_due(promised)
        self._finding.counts["copies due"] += len(copies)
        self._finding.object("copies lost", _shown(copies - self._done))

    def _copies_due(self, promised: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return (key, agent) of every copy whose original is there, whether its sender heard or not."""
        there = promised | {(r.key, agent) for (agent, _), begins in self._begins.items() for r in begins}
        there |= {(key, log) for log, keys in self._mail.logs.items() for key in keys}
        return {
            (key, agent)
            for key in self._attempts
            for agent, original in self._writer(key).copied(key).items()
            if (key, original) in there
        }

    def _judge_logs(self) -> None:
        expected: defaultdict[str, set[str]] = defaultdict(set)
        for record in self._stored:
            log = self._log_of(record.key)
            if log is not None:
                expected[log].add(record.key)
        for log, keys in self._mail.logs.items():
            self._finding.counts["messages in logs"] += len(keys)
            self._finding.object("missing from their log", expected[log] - set(keys))
            twice = [key for key, many in Counter(keys).items() if many > self._most_ids(key)]
            self._finding.object("in a log twice", twice)
            foreign = {key for key in keys if key not in self._attempts or self._log_of(key) != log}
            self._finding.object("unexpected", foreign)

    def _log_of(self, key: str) -> str | None:
        return self._writer(key).log(key.rpartition("-")[0], key)

    def _most_ids(self, key: str) -> int:
        """Return how often a message may be stored: once with a key, else each time it was tried."""
        return 1 if self._writer(key).idempotent else self._attempts[key]

    def _judge_identity(self) -> None:
        ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for (agent, message_id), begins in self._begins.items():
            for key in {begin.key for begin in begins}:
                ids[key, agent].add(message_id)
        self._finding.object(
            "stored twice",
            _shown(pair for pair, found in ids.items() if len(found) > self._most_ids(pair[0])),
        )
        self._finding.object("unexpected", _shown(pair for pair in ids if not self._is_for(*pair)))

    def _is_for(self, key: str, agent: str) -> bool:
        if key not in self._attempts:
            return False
        writer = self._writer(key)
        return agent in writer.addressed(key) or agent in writer.copied(key)

    # --- deliveries ---

    def _judge_deliveries(self) -> None:
        unexplained, unmarked = [], []
        for begins in self._begins.values():
            for before, after in pairwise(begins):
                cause = self._cause(before, after)
                if cause is None:
                    unexplained.append(f"{after.key} twice at {after.agent}")
                    continue
                self._finding.counts[cause] += 1
                if not after.redelivered:
                    unmarked.append(f"{after.key} at {after.agent}")
        self._finding.object("without a cause", unexplained)
        self._finding.object("not marked as redelivered", unmarked)

    def _cause(self, before: Record, after: Record) -> str | None:
        ends = self._ends[before.agent, before.message_id]
        ended = next((end.note for end in ends if end.pid == before.pid and end.at >= before.at), None)
        if ended == "failed" and after.attempt == before.attempt + 1:
            return RETRY
        return self._mishaps.between(before, after.at)

    # --- receipts ---

    def _judge_receipts(self) -> None:
        more, less = [], []
        for message_id, rows in self._mail.receipts.items():
            for row in rows:
                name = self._name(message_id, row.agent)
                more += [f"{name}: {what}" for what in (*self._too_much(message_id, row), *_disordered(row))]
                less += [f"{name}: {what}" for what in self._too_little(message_id, row)]
        self._finding.object("receipts that say more than happened", more)
        self._finding.object("receipts that say less", less)
        self._finding.object("receipts missing", _shown(self._without_receipt()))

    def _without_receipt(self) -> Iterator[tuple[str, str]]:
        for record in self._stored:
            named = self._writer(record.key).named(record.key)
            if named and not record.agent:
                rows = self._mail.receipts.get(record.message_id, ())
                for agent in set(named).symmetric_difference(row.agent for row in rows):
                    yield record.key, agent

    def _judge_refusals(self) -> None:
        """What a sender was told of one recipient for certain; copies are told of by their topic alone."""
        certain = [r for r in self._refused if self._writer(r.key).named(r.key)]
        handled = [r for r in certain if self._begins.get((r.agent, r.message_id))]
        self._finding.object("refused, and handled all the same", _shown((r.key, r.agent) for r in handled))

    def _name(self, message_id: str, agent: str) -> str:
        begins = self._begins.get((agent, message_id))
        return f"{begins[0].key if begins else message_id} at {agent}"

    def _too_much(self, message_id: str, row: Receipt) -> Iterator[str]:
        begins = self._begins.get((row.agent, message_id), [])
        ends = [r for r in self._ends.get((row.agent, message_id), []) if r.note == "processed"]
        for level, at, seen in (("read", row.read_at, begins), ("processed", row.processed_at, ends)):
            if at is None:
                continue
            if not seen:
                yield f"{level}, and no handler did"
            elif at.timestamp() < seen[0].at + self._mail.wall - _TOLERANCE:
                early = seen[0].at + self._mail.wall - at.timestamp()
                yield f"{level} {early:.3f} s before a handler did"
        if row.refused and ends and not row.refused.startswith("dead"):
            yield f"refused ({row.refused}), and processed"

    def _too_little(self, message_id: str, row: Receipt) -> Iterator[str]:
        begins = self._begins.get((row.agent, message_id), [])
        if row.refused or row.processed_at:
            return
        # Nothing moves any more: what is there has ended.
        if begins:
            yield "a handler had it, and it is neither processed nor refused"
        elif row.stored_at:
            yield "stored, and neither processed nor refused"


def _disordered(row: Receipt) -> Iterator[str]:
    levels = ("stored", "delivered", "read", "processed")
    times: list[tuple[str, datetime]] = [
        (level, at) for level in levels if (at := getattr(row, f"{level}_at")) is not None
    ]
    for (earlier, one), (later, other) in pairwise(times):
        if other < one:
            yield f"{later} before {earlier}"


def _shown(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{key} for {agent}" for key, agent in pairs]
