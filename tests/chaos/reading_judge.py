"""The judge of one agent at one channel. Pure: what the broker knows and histories in, a finding out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.chaos.checker import RETRY
from tests.chaos.history import Record
from tests.chaos.judges import Finding
from tests.chaos.mishaps import Mishaps
from tests.chaos.readings import ENDS, Reading

#: Counted also where there is none.
_WATCHED = (
    "lost",
    "unexpected",
    "without a cause",
    "not marked as redelivered",
    "out of order",
    "beside another",
)
#: How a delivery from the log ends that goes on in the inbox.
_GOES_ON = frozenset(("failed", "deferred", "rejected"))


def judge_reading(reading: Reading, records: Sequence[Record]) -> Finding:
    """Everything stored is handled, a dead letter or told missing; in order; and the books close."""
    finding = Finding(Counter(dict.fromkeys(_WATCHED, 0)))
    _Judgement(reading, records, finding).judge()
    return finding


class _Judgement:
    """One agent at one channel."""

    def __init__(self, reading: Reading, records: Sequence[Record], finding: Finding) -> None:
        self._reading = reading
        self._finding = finding
        mine = [r for r in records if (r.agent, r.channel) == (reading.agent, reading.channel)]
        self._begins = [record for record in mine if record.event == "begin"]
        self._ends: defaultdict[tuple[int, str, str], list[Record]] = defaultdict(list)
        for record in mine:
            if record.event == "end":
                self._ends[record.pid, record.message_id, record.entry].append(record)
        self._mishaps = Mishaps(records)
        written = [r for r in records if r.key.rpartition("-")[0] in reading.writers and not r.agent]
        self._attempted = {record.key for record in written if record.event == "attempt"}
        self._stored = {record.key for record in written if record.event == "stored"}

    def judge(self) -> None:
        """Fill in the finding."""
        self._judge_messages()
        self._judge_books()
        self._judge_deliveries()
        self._finding.object("told of lost data", self._mishaps.lost_data(self._reading.agent))
        if self._reading.in_order:
            self._judge_order()

    # --- messages ---

    def _judge_messages(self) -> None:
        reading, finding = self._reading, self._finding
        processed = {r.key for ends in self._ends.values() for r in ends if r.note == "processed"}
        elsewhere = processed | set(reading.dead) | set(reading.queued)
        # What the log does not hold any more was told missing, if the numbers agree; see the books.
        finding.counts.update({"stored": len(self._stored), "handled": len(processed)})
        finding.counts.update({"dead letters": len(reading.dead), "missed": reading["missed"]})
        finding.object("lost", (self._stored & set(reading.log.values())) - elsewhere)
        absent = self._stored - set(reading.log.values()) - elsewhere
        finding.object("lost, and not told missing", sorted(absent)[reading["missed"] :])
        finding.object("unexpected", {r.key for r in self._begins} - self._attempted)
        told = {r.entry or r.message_id: r.missed for r in self._begins if r.missed}
        finding.differ(self._name("missing, and told so to handlers"), reading["missed"], sum(told.values()))

    # --- books ---

    def _judge_books(self) -> None:
        reading, differ = self._reading, self._finding.differ
        ended = sum(reading[name] for name in ENDS)
        differ(self._name("handed out, and ended or pending"), reading["handed_out"], ended + reading.pending)
        # The cursor began with the first entry: what is before it was handed out, or missed unread.
        passed = reading["handed_out"] + reading["missed"] - reading["vanished"]
        differ(self._name("position, and what was handed out or missed"), reading["position"], passed)
        differ(self._name("position, and entries of the log"), reading["position"], reading.added)
        at_log = {key[2] for key in self._ends if key[2]}
        if len(at_log) < reading["processed"] + reading["moved"]:
            ended = reading["processed"] + reading["moved"]
            self._finding.problems.append(
                f"{self._name('ended by the books')}: {ended}, but {len(at_log)} handlers did"
            )

    def _name(self, what: str) -> str:
        return f"{self._reading.agent} at {self._reading.channel}: {what}"

    # --- deliveries ---

    def _judge_deliveries(self) -> None:
        lives: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
        for begin in self._begins:
            lives[begin.message_id, begin.entry].append(begin)
        for (message_id, entry), begins in lives.items():
            if not entry:
                self._judge_way_into_inbox(message_id, begins[0], lives)
            for before, after in pairwise(begins):
                self._judge_repeat(before, after)

    def _judge_way_into_inbox(
        self, message_id: str, begin: Record, lives: dict[tuple[str, str], list[Record]]
    ) -> None:
        """It is there because it failed on the log before."""
        before = [
            each
            for (other, entry), begins in lives.items()
            if other == message_id and entry
            for each in begins
            if each.at < begin.at
        ]
        if any(self._ended(each) in _GOES_ON for each in before):
            self._count(RETRY, begin)
        else:
            self._finding.object("without a cause", [f"{begin.key} in the inbox of {begin.agent}"])

    def _judge_repeat(self, before: Record, after: Record) -> None:
        cause = self._cause(before, after)
        if cause is None:
            self._finding.object("without a cause", [f"{after.key} twice at {after.agent}"])
        else:
            self._count(cause, after)

    def _count(self, cause: str, after: Record) -> None:
        self._finding.counts[cause] += 1
        if not after.redelivered:
            self._finding.object("not marked as redelivered", [f"{after.key} at {after.agent}"])

    def _cause(self, before: Record, after: Record) -> str | None:
        if not after.entry and self._ended(before) == "failed" and after.attempt == before.attempt + 1:
            return RETRY
        return self._mishaps.between(before, after.at)

    def _ended(self, begin: Record) -> str | None:
        end = self._end_of(begin)
        return None if end is None else end.note

    def _end_of(self, begin: Record) -> Record | None:
        ends = self._ends[begin.pid, begin.message_id, begin.entry]
        return next((end for end in ends if end.at >= begin.at), None)

    # --- order ---

    def _judge_order(self) -> None:
        """First deliveries come in the order of the log, and no two run at a time."""
        seen: set[str] = set()
        firsts = []
        for begin in self._begins:
            if begin.entry and begin.entry not in seen:
                seen.add(begin.entry)
                firsts.append(begin)
        pairs = pairwise(firsts)
        late = [f"{b.key} after {a.key}" for a, b in pairs if _place(b.entry) < _place(a.entry)]
        self._finding.counts["first deliveries in order"] += len(firsts) - len(late)
        self._finding.object("out of order", late)
        self._finding.object("beside another", self._overlaps())

    def _overlaps(self) -> Iterator[str]:
        running = [begin for begin in self._begins if begin.entry]
        for before, after in pairwise(running):
            end = self._end_of(before)
            if (end is None or end.at > after.at) and not self._mishaps.of_owner(before, after.at):
                yield f"{after.key} beside {before.key}"


def _place(entry: str) -> tuple[int, int]:
    time, _, number = entry.partition("-")
    return int(time), int(number)
