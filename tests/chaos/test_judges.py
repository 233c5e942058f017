"""The judges of schedules, dead letters and the archive: each planted fault is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.evidence import Evidence, Letters, Place, Row, Ticks
from tests.chaos.history import Record
from tests.chaos.judges import Finding, judge_archive, judge_letters, judge_ticks

INBOX, CHANNEL = "agent.one", "channel.bells"
AGENT, PERSON, OTHER_PERSON = 20, 30, 31
CREATED = 1_000_000
SECOND = 1_000


def found(finding: Finding) -> str:
    """Return the problems without their numbers and names."""
    return "; ".join(problem.partition(" ")[2].partition(":")[0] for problem in finding.problems)


# --- schedules ---


def ticks(*numbers: int, **values: Any) -> Ticks:
    messages = tuple((number, CREATED + number * SECOND) for number in numbers)
    sent = values.pop("sent", len(numbers))
    return Ticks(f"{INBOX}:each", CREATED, SECOND, sent, values.pop("missed", 0), messages)


def test_ticks_that_were_sent_once_or_counted_as_missed_are_fine() -> None:
    finding = judge_ticks([ticks(1, 2, 3), ticks(1, 4, missed=2)], [15_000, 30_000])
    assert finding.problems == []
    assert (finding.counts["ticks"], finding.counts["missed ticks"]) == (7, 2)
    assert finding.notes == [f"{INBOX}:each 2, 3"], "those that were missed are named"


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        (ticks(1, 2, 2, 3, sent=3), "doubled ticks"),
        (ticks(1, 3, sent=3), "ticks lost"),
        (ticks(1, 4, sent=3, missed=1), "ticks lost"),
        (ticks(1, 2, 3, sent=2), "ticks nobody counted"),
        (replace(ticks(1, 2), found=((1, CREATED + 1_000), (2, CREATED + 2_001))), "ticks at a wrong time"),
    ],
)
def test_a_tick_that_is_doubled_lost_uncounted_or_at_a_wrong_time_is_found(
    schedule: Ticks, problem: str
) -> None:
    finding = judge_ticks([schedule], [])
    assert found(finding) == problem
    assert f"{INBOX}:each number" in finding.problems[0]


def test_a_schedule_that_never_ticked_is_found() -> None:
    assert judge_ticks([ticks()], []).problems == [f"{INBOX}:each never ticked"]


def test_two_messages_for_one_tick_of_the_status_are_found() -> None:
    assert found(judge_ticks([], [15_000, 30_000, 30_000])) == "doubled status ticks"


# --- dead letters ---


def letter(number: int) -> str:
    return f"{INBOX}:{number}-0"


def ended(number: int, outcome: str, message: str, letter_number: int | None = None) -> Row:
    name = "" if letter_number is None else letter(letter_number)
    stream = {"processed": "normal", "resolved": "resolved"}.get(outcome, "ended")
    return Row(INBOX, stream, f"{number}-0", outcome, message, {"key": f"w-{number}"}, name)


#: One message died, was handed out, died again and was resolved; one was dropped; one was handed out and
#: processed; one is dead.
ROWS = (ended(11, "resolved", "a", 2), ended(12, "discarded", "b", 3), ended(13, "processed", "c"))
LETTERS = Letters(
    announced=((letter(1), "a"), (letter(2), "a"), (letter(3), "b"), (letter(4), "c"), (letter(5), "d")),
    dead={letter(5): "d"},
    redriven=(letter(1), letter(4)),
)
LEDGER = {"redriven": 2, "resolved": 1, "discarded": 1, "processed": 1, "dead": 1}
RECORDS = (
    Record("told", 1.0, PERSON, "w-1", "a", letter=letter(1), note="retried"),
    Record("told", 1.1, OTHER_PERSON, "w-1", "a", letter=letter(1), note="gone retried"),
    Record("begin", 1.5, AGENT, "w-1", "a"),
    Record("told", 2.0, PERSON, "w-1", "a", letter=letter(2), note="resolved"),
    Record("told", 3.0, PERSON, "w-2", "b", letter=letter(3), note="dropped"),
    Record("begin", 4.0, AGENT, "w-3", "c"),
    Record("end", 4.1, AGENT, "w-3", "c", note="processed"),
)


def evidence(rows: tuple[Row, ...] = ROWS, records: dict[str, int] | None = None, **letters: Any) -> Evidence:
    places = {(row.stream, row.entry): frozenset((row.outcome,)) for row in ROWS}
    place = Place(INBOX, LEDGER | (records or {}), places, replace(LETTERS, **letters))
    return Evidence(rows, (place,))


def test_letters_that_are_announced_once_and_left_once_are_fine() -> None:
    finding = judge_letters(evidence(), RECORDS)
    assert finding.problems == []
    assert (finding.counts["announced"], finding.counts["handed out again"]) == (5, 2)


def test_without_records_letters_are_counted_by_the_ledger() -> None:
    assert judge_letters(evidence(redriven=None), RECORDS).problems == []
    finding = judge_letters(evidence(records={"redriven": 3}, redriven=None), RECORDS)
    assert finding.problems == [f"{INBOX}: handed out again, and counted so: 2 and 3"]


def test_a_letter_that_is_announced_twice_is_found() -> None:
    finding = judge_letters(evidence(announced=(*LETTERS.announced, (letter(5), "d"))), RECORDS)
    assert finding.problems == [f"1 letters announced twice: {letter(5)}"]


def test_a_letter_that_is_never_announced_is_found() -> None:
    finding = judge_letters(evidence(announced=LETTERS.announced[:-1]), RECORDS)
    assert finding.problems == [f"1 letters never announced: {letter(5)}"]


def test_a_letter_that_is_handed_out_twice_is_found() -> None:
    finding = judge_letters(evidence(redriven=(letter(1), letter(1), letter(4))), RECORDS)
    assert "letters with two fates" in found(finding)
    assert "retries that did not come back exactly once" in found(finding)


def test_a_retry_that_never_came_back_is_found() -> None:
    finding = judge_letters(evidence(rows=ROWS[:-1], announced=LETTERS.announced), RECORDS)
    assert finding.problems == [
        "1 retries that did not come back exactly once: c lived 2 times and ended 1 times"
    ]


def test_a_retry_that_came_back_twice_is_found() -> None:
    finding = judge_letters(evidence(rows=(*ROWS, ended(14, "processed", "c"))), RECORDS)
    assert finding.problems == [
        "1 retries that did not come back exactly once: c lived 2 times and ended 3 times"
    ]


def test_a_letter_that_is_resolved_and_still_dead_is_found() -> None:
    finding = judge_letters(
        evidence(
            dead={letter(5): "d", letter(2): "a"},
        ),
        RECORDS,
    )
    assert "letters with two fates" in found(finding)


def test_a_message_that_runs_after_it_was_resolved_is_found() -> None:
    finding = judge_letters(evidence(), (*RECORDS, Record("begin", 9.0, AGENT, "w-1", "a")))
    assert finding.problems == ["1 resolved or dropped, but run again: w-1"]


def test_an_answer_that_is_not_true_is_found() -> None:
    lie = Record("told", 5.0, PERSON, "w-4", "d", letter=letter(5), note="resolved")
    assert found(judge_letters(evidence(), (*RECORDS, lie))) == "answers that are not true"
    twice = Record("told", 5.0, OTHER_PERSON, "w-1", "a", letter=letter(1), note="retried")
    assert found(judge_letters(evidence(), (*RECORDS, twice))) == "answers that are not true"


@pytest.mark.parametrize("counter", ["redriven", "resolved", "dead"])
def test_a_ledger_that_counts_other_letters_is_found(counter: str) -> None:
    finding = judge_letters(evidence(records={counter: 7}), RECORDS)
    assert len(finding.problems) == 1 and finding.problems[0].endswith("and 7")


# --- the archive ---


def test_an_archive_that_is_equal_to_what_ended_is_fine() -> None:
    finding = judge_archive(evidence(), RECORDS)
    assert finding.problems == []
    assert (finding.counts["rows"], finding.counts["compared entry by entry"]) == (3, 3)


def test_a_row_that_is_lost_is_found() -> None:
    finding = judge_archive(evidence(rows=ROWS[:-1]), RECORDS)
    assert finding.problems[0] == f"1 ended, but not archived: {INBOX} normal 13-0"
    assert f"{INBOX}: rows that are processed, and counted so: 0 and 1" in finding.problems


def test_a_row_that_is_there_twice_is_found() -> None:
    finding = judge_archive(evidence(rows=(*ROWS, ROWS[-1])), RECORDS)
    assert "rows that are there twice" in found(finding)
    assert "messages that ended twice" in found(finding)


def test_a_row_of_what_never_ended_is_found() -> None:
    finding = judge_archive(evidence(rows=(*ROWS, ended(99, "expired", "z"))), RECORDS)
    assert f"1 archived, but not ended: {INBOX} ended 99-0" in finding.problems


def test_a_row_with_another_outcome_is_found() -> None:
    wrong = replace(ROWS[-1], outcome="expired")
    assert "archived with another outcome" in found(
        judge_archive(evidence(rows=(*ROWS[:-1], wrong)), RECORDS)
    )


def test_a_message_that_is_archived_and_still_dead_is_found() -> None:
    finding = judge_archive(evidence(dead={letter(5): "c"}), RECORDS)
    assert finding.problems == ["1 messages that ended twice: c"]


def test_a_message_that_was_stored_and_is_nowhere_is_found() -> None:
    stored = Record("stored", 0.5, 10, "w-9", "nowhere")
    finding = judge_archive(evidence(), (*RECORDS, stored))
    assert finding.problems == ["1 stored, but neither archived nor dead: nowhere"]
    # With a key the publisher may have been told of a message that somebody stored before, under another id.
    assert judge_archive(evidence(), (*RECORDS, replace(stored, idempotent=True))).problems == []


def test_a_message_that_counts_as_processed_though_nobody_handled_it_is_found() -> None:
    finding = judge_archive(evidence(), RECORDS[:-1])
    assert finding.problems == ["1 archived as processed, but not handled: c"]


def test_messages_that_had_left_before_they_were_archived_are_found() -> None:
    finding = judge_archive(evidence(records={"archive_missing": 2}), RECORDS)
    assert finding.problems == [f"{INBOX}: missing in the archive: 2 and 0"]


def test_the_log_of_a_channel_is_compared_entry_by_entry() -> None:
    rows = tuple(Row(CHANNEL, "log", f"{number}-0", "logged", f"m{number}", {}) for number in (1, 2))
    log = {("log", f"{number}-0"): frozenset(("logged",)) for number in (1, 2, 3)}
    finding = judge_archive(Evidence(rows, (Place(CHANNEL, {}, log),)), ())
    assert finding.problems == [f"1 ended, but not archived: {CHANNEL} log 3-0"]


def test_findings_of_several_runs_add_up() -> None:
    finding = judge_ticks([ticks(1, 2)], [])
    finding.add(judge_ticks([ticks(1, 2, 2, sent=2)], []))
    assert (finding.counts["ticks"], finding.counts["doubled ticks"], len(finding.problems)) == (4, 1, 1)
