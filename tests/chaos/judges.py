"""The judges of schedules, dead letters and the archive. Pure: evidence and histories in, findings out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.chaos.evidence import Evidence, Letters, Place, Row, Ticks
from tests.chaos.history import Record

Value = TypeVar("Value", int, str, tuple[str, str, str])

#: How a message of an inbox can end, each a counter of the ledger.
ENDS = ("processed", "expired", "cancelled", "discarded", "resolved", "moved")


@dataclass(slots=True)
class Finding:
    """What a judge counted, and what breaks a promise."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    #: What breaks none, but is to be told by name.
    notes: list[str] = field(default_factory=list)

    def add(self, other: Finding) -> None:
        """Add another finding."""
        # Not `+=`, which would forget a zero.
        self.counts.update(other.counts)
        self.problems += other.problems
        self.notes += other.notes

    def object(self, what: str, found: Iterable[object]) -> None:
        """Note a broken promise with some of those it was broken for; count them in any case."""
        listed = sorted(str(each) for each in found)
        self.counts[what] += len(listed)
        if listed:
            self.problems.append(f"{len(listed)} {what}: {', '.join(listed[:5])}")

    def differ(self, what: str, left: int, right: int) -> None:
        """Note two numbers that had to be the same."""
        if left != right:
            self.problems.append(f"{what}: {left} and {right}")


# --- schedules ---


def judge_ticks(schedules: Sequence[Ticks], status: Sequence[int]) -> Finding:
    """Each tick is one message with its own number and time, or is counted as missed."""
    finding = Finding(Counter({"ticks": 0, "missed ticks": 0}))
    for schedule in schedules:
        _judge_schedule(schedule, finding)
    finding.counts["status ticks"] += len(status)
    finding.object("doubled status ticks", _repeated(status))
    return finding


def _judge_schedule(schedule: Ticks, finding: Finding) -> None:
    passed = schedule.sent + schedule.missed
    numbers = [number for number, _ in schedule.found]
    absent = sorted(set(range(1, passed + 1)) - set(numbers))
    finding.counts["ticks"] += passed
    finding.counts["missed ticks"] += schedule.missed
    finding.object("doubled ticks", _named(schedule, _repeated(numbers)))
    finding.object("ticks nobody counted", _named(schedule, {n for n in numbers if not 1 <= n <= passed}))
    if schedule.missed:
        finding.notes.append(f"{schedule.id} {', '.join(map(str, absent))}")
    # Of a schedule that sends every tick none may be absent, else as many as it says it missed.
    lost = absent if len(absent) != schedule.missed else []
    finding.object("ticks lost", _named(schedule, lost))
    wrong = {
        number
        for number, time_ms in schedule.found
        if time_ms != schedule.created_ms + number * schedule.interval_ms
    }
    finding.object("ticks at a wrong time", _named(schedule, wrong))
    if not passed:
        finding.problems.append(f"{schedule.id} never ticked")


def _named(schedule: Ticks, numbers: Iterable[int]) -> list[str]:
    return [f"{schedule.id} number {number}" for number in numbers]


# --- dead letters ---


def judge_letters(evidence: Evidence, records: Sequence[Record]) -> Finding:
    """Each letter is announced once and leaves once, as whoever did it was told, and stays away."""
    finding = Finding(Counter({"announced": 0, "handed out again": 0, "resolved": 0, "dropped": 0}))
    told = _told(records)
    for place in evidence.places:
        if place.address.startswith("agent."):
            _Inbox(place, evidence.rows_of(place.address), told, finding).judge()
    _judge_returns(records, finding)
    return finding


def _told(records: Iterable[Record]) -> dict[str, list[str]]:
    """Return what people were told of each letter."""
    told: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.event == "told":
            told[record.letter].append(record.note)
    return told


class _Inbox:
    """Judges the letters of one inbox."""

    def __init__(
        self, place: Place, rows: Sequence[Row], told: dict[str, list[str]], finding: Finding
    ) -> None:
        self._place = place
        self._letters: Letters = place.letters
        self._finding = finding
        self._told = {
            letter: notes for letter, notes in told.items() if letter.startswith(f"{place.address}:")
        }
        ended = [(row.outcome, row.letter) for row in rows if row.letter]
        self._resolved = [letter for outcome, letter in ended if outcome == "resolved"]
        self._dropped = [letter for outcome, letter in ended if outcome == "discarded"]
        #: Messages that ended otherwise than as a letter.
        self._ended_alive = [row.message_id for row in rows if not row.letter]
        self._lived = {*self._ended_alive, *(message for _, message in self._letters.announced)}

    def judge(self) -> None:
        """Fill in the finding."""
        announced = [letter for letter, _ in self._letters.announced]
        left = self._fates()
        self._finding.counts.update(
            {"announced": len(announced), "resolved": len(self._resolved), "dropped": len(self._dropped),
             "still dead": len(self._letters.dead)}
        )  # fmt: skip
        self._finding.object("letters announced twice", _repeated(announced))
        self._finding.object("letters never announced", left.keys() - set(announced))
        self._finding.object(
            "letters with two fates",
            [f"{letter} {' and '.join(fates)}" for letter, fates in left.items() if len(fates) > 1],
        )
        self._judge_answers(left)
        self._judge_lives()
        self._judge_numbers(set(announced))

    def _fates(self) -> dict[str, list[str]]:
        """Return what the broker and the archive say became of each letter."""
        fates: defaultdict[str, list[str]] = defaultdict(list)
        listed = {
            "dead": tuple(self._letters.dead), "retried": self._letters.redriven or (),
            "resolved": self._resolved, "dropped": self._dropped,
        }  # fmt: skip
        for fate, letters in listed.items():
            for letter in letters:
                fates[letter].append(fate)
        return dict(fates)

    def _judge_answers(self, fates: dict[str, list[str]]) -> None:
        """What somebody was told is what happened, and was told to one person only."""
        lies = []
        for letter, notes in self._told.items():
            done = [note for note in notes if not note.startswith("gone")]
            if len(done) > 1:
                lies.append(f"{letter} {' and '.join(done)}")
            said = {note.removeprefix("gone ") for note in notes if note != "gone"}
            fate = fates.get(letter, ["retried"] if self._letters.redriven is None else [])
            if said - set(fate):
                lies.append(
                    f"{letter} {' and '.join(sorted(said))}, but is {' and '.join(fate) or 'nowhere'}"
                )
        self._finding.object("answers that are not true", lies)

    def _judge_lives(self) -> None:
        """A message lives once, and once more for each time it was handed out; each life has one end."""
        if self._letters.redriven is None:
            return
        message_of = dict(self._letters.announced)
        lives, ends = Counter(self._lived), Counter(self._ended_alive)
        for letter in message_of:
            ends[message_of[letter]] += 1
        lives.update(message_of[letter] for letter in self._letters.redriven if letter in message_of)
        uneven = {
            f"{message} lived {lives[message]} times and ended {ends[message]} times"
            for message in lives.keys() | ends.keys()
            if lives[message] != ends[message]
        }
        self._finding.object("retries that did not come back exactly once", uneven)

    def _judge_numbers(self, announced: set[str]) -> None:
        """The ledger counts the same letters."""
        name, ledger = self._place.address, self._place.ledger
        closed = {*self._letters.dead, *self._resolved, *self._dropped}
        redriven = self._letters.redriven
        again = len(announced - closed) if redriven is None else len(redriven)
        self._finding.counts["handed out again"] += again
        self._finding.differ(f"{name}: handed out again, and counted so", again, ledger.get("redriven", 0))
        self._finding.differ(
            f"{name}: resolved, and counted so", len(self._resolved), ledger.get("resolved", 0)
        )
        self._finding.differ(
            f"{name}: still dead, and counted so", len(self._letters.dead), ledger.get("dead", 0)
        )


def _judge_returns(records: Iterable[Record], finding: Finding) -> None:
    """What was resolved or dropped does not run again."""
    gone: dict[str, float] = {}
    back = set()
    for record in records:
        if record.event == "told" and record.note in ("resolved", "dropped"):
            gone.setdefault(record.message_id, record.at)
        elif record.event == "begin" and record.at > gone.get(record.message_id, record.at):
            back.add(record.key)
    finding.object("resolved or dropped, but run again", back)


# --- the archive ---


def judge_archive(evidence: Evidence, records: Sequence[Record]) -> Finding:
    """The archive holds what has ended, as it ended, once."""
    finding = Finding(Counter({"rows": len(evidence.rows)}))
    finding.object("rows that are there twice", _repeated(row.place for row in evidence.rows))
    for place in evidence.places:
        rows = evidence.rows_of(place.address)
        if place.ended is not None:
            _judge_entries(place, rows, finding)
        if place.address.startswith("agent."):
            _judge_ends(place, rows, records, finding)
    known = {place.address for place in evidence.places}
    finding.object("rows of no address", {row.address for row in evidence.rows} - known)
    there = {row.message_id for row in evidence.rows}
    for place in evidence.places:
        there.update(place.letters.dead.values())
    finding.object("stored, but neither archived nor dead", _stored(records) - there)
    return finding


def _stored(records: Iterable[Record]) -> set[str]:
    """Return the ids of messages that were stored, by what their publishers were told."""
    # With a key the answer may be about the message of somebody before: its id is not in it.
    return {
        record.message_id
        for record in records
        if record.event == "stored" and record.message_id and not record.idempotent
    }


def _judge_entries(place: Place, rows: Sequence[Row], finding: Finding) -> None:
    """Every entry that ended by the records is a row with that outcome, and no other is."""
    assert place.ended is not None
    found = {(row.stream, row.entry): row.outcome for row in rows}
    finding.object("ended, but not archived", _at(place, place.ended.keys() - found.keys()))
    finding.object("archived, but not ended", _at(place, found.keys() - place.ended.keys()))
    wrong = {
        entry
        for entry, outcome in found.items()
        if entry in place.ended and outcome not in place.ended[entry]
    }
    finding.object("archived with another outcome", _at(place, wrong))
    finding.counts["compared entry by entry"] += len(place.ended)


def _at(place: Place, entries: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{place.address} {stream} {entry}" for stream, entry in entries]


def _judge_ends(place: Place, rows: Sequence[Row], records: Sequence[Record], finding: Finding) -> None:
    """Each message has ended once, or is dead; as many as the ledger counts; processed ones were handled."""
    by_outcome = Counter(row.outcome for row in rows)
    for outcome in ENDS:
        finding.counts[outcome] += by_outcome[outcome]
        finding.differ(
            f"{place.address}: rows that are {outcome}, and counted so",
            by_outcome[outcome], place.ledger.get(outcome, 0),
        )  # fmt: skip
    finding.differ(f"{place.address}: missing in the archive", place.ledger.get("archive_missing", 0), 0)
    ends = Counter(row.message_id for row in rows)
    ends.update(place.letters.dead.values())
    finding.object("messages that ended twice", [each for each, count in ends.items() if count > 1])
    handled = {
        record.message_id for record in records if record.event == "end" and record.note == "processed"
    }
    processed = {row.message_id for row in rows if row.outcome == "processed"}
    finding.object("archived as processed, but not handled", processed - handled)
    finding.counts["messages"] += len(ends)
    finding.counts["left the broker"] += len(rows) - place.kept


def _repeated(values: Iterable[Value]) -> list[Value]:
    return [value for value, count in Counter(values).items() if count > 1]
