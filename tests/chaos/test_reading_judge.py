"""The judge of subscribers: each planted fault is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.history import Record
from tests.chaos.judges import Finding
from tests.chaos.reading_judge import judge_reading
from tests.chaos.readings import Reading

CHANNEL, AGENT = "channel.main", "reader"
FIRST, SECOND, WRITER = 20, 21, 10


def line(
    event: str, at: float, number: int, pid: int = FIRST, entry: str | None = None, **values: Any
) -> Record:
    """A line of the agent about message ``number``; from the log unless ``entry`` is empty."""
    place = f"100-{number}" if entry is None else entry
    return Record(
        event, at, pid, f"w-{number}", f"m{number}", agent=AGENT, channel=CHANNEL, entry=place, **values
    )


def handled(at: float, number: int, pid: int = FIRST, entry: str | None = None, **begin: Any) -> list[Record]:
    ended = line("end", at + 0.1, number, pid, entry, note="processed")
    return [line("begin", at, number, pid, entry, **begin), ended]


#: The first is handled; of the second the owner dies and another takes over; the third fails and is carried
#: into the inbox; the fourth is a dead letter; two that were trimmed come before the seventh.
GOOD = (
    *(Record("attempt", 0.1, WRITER, f"w-{n}") for n in range(1, 8)),
    *(Record("stored", 0.2, WRITER, f"w-{n}", f"m{n}") for n in range(1, 8)),
    *handled(1.0, 1),
    line("begin", 2.0, 2),
    Record("killed", 2.1, FIRST),
    *handled(5.0, 2, SECOND, redelivered=True),
    line("begin", 6.0, 3, SECOND),
    line("end", 6.1, 3, SECOND, note="failed"),
    line("begin", 7.0, 4, SECOND),
    line("end", 7.1, 4, SECOND, note="rejected"),
    *handled(7.5, 3, SECOND, "", attempt=2, redelivered=True),
    *handled(8.0, 7, SECOND, missed=2),
)
READING = Reading(
    AGENT, CHANNEL, ("w",), True,
    log={f"100-{n}": f"w-{n}" for n in (4, 7)},
    added=7,
    counts={"handed_out": 5, "processed": 3, "moved": 2, "missed": 2, "position": 7},
    dead=("w-4",),
)  # fmt: skip


def judge(*more: Record, without: tuple[Record, ...] = (), reading: Reading = READING) -> Finding:
    records = [record for record in GOOD if record not in without] + list(more)
    return judge_reading(reading, sorted(records, key=lambda record: record.at))


def found(finding: Finding) -> str:
    """Return the problems without their numbers and names."""
    return "; ".join(problem.partition(" ")[2].partition(":")[0] for problem in finding.problems)


def counting(**counts: int) -> Reading:
    return replace(READING, counts=READING.counts | counts)


def test_what_is_handled_carried_dead_or_told_missing_is_fine() -> None:
    finding = judge()
    assert finding.problems == []
    assert finding.counts["first deliveries in order"] == 5
    assert (finding.counts["death of the owner"], finding.counts["retry after a failure"]) == (1, 1)


def test_a_message_that_is_in_the_log_and_was_never_handled_is_found() -> None:
    gone = tuple(record for record in GOOD if record.key == "w-7" and record.agent)
    assert "1 lost: w-7" in judge(without=gone).problems


def test_more_that_are_missing_than_were_told_of_are_found() -> None:
    finding = judge(reading=counting(missed=1, handed_out=6, processed=4))
    assert "1 lost, and not told missing: w-6" in finding.problems
    assert any("told so to handlers: 1 and 2" in problem for problem in finding.problems)


def test_a_gap_that_no_handler_was_told_of_is_found() -> None:
    silent = tuple(record for record in GOOD if record.missed)
    finding = judge(replace(silent[0], missed=0), without=silent)
    assert finding.problems == [f"{AGENT} at {CHANNEL}: missing, and told so to handlers: 2 and 0"]


def test_a_message_that_nobody_published_is_found() -> None:
    assert "unexpected" in found(judge(*handled(9.0, 99)))


@pytest.mark.parametrize(
    "counts", [{"handed_out": 6}, {"processed": 2}, {"position": 8}, {"vanished": 1}, {"missed": 3}]
)
def test_books_that_do_not_close_are_found(counts: dict[str, int]) -> None:
    assert judge(reading=counting(**counts)).problems


def test_what_counts_as_ended_though_no_handler_did_is_found() -> None:
    silent = tuple(record for record in GOOD if record.key == "w-1" and record.agent)
    finding = judge(without=silent, reading=replace(READING, dead=("w-4", "w-1")))
    assert [problem.partition(": ")[2] for problem in finding.problems] == [
        "ended by the books: 5, but 4 handlers did"
    ]


def test_a_second_delivery_without_a_cause_is_found() -> None:
    assert judge(*handled(9.0, 7, SECOND, redelivered=True)).problems == [
        "1 without a cause: w-7 twice at reader"
    ]
    in_inbox = judge(*handled(9.0, 1, SECOND, "", redelivered=True))
    assert in_inbox.problems == ["1 without a cause: w-1 in the inbox of reader"]


def test_a_redelivery_that_claims_to_be_the_first_is_found() -> None:
    marked = tuple(record for record in GOOD if record.redelivered and record.key == "w-2")
    finding = judge(replace(marked[0], redelivered=False), without=marked)
    assert finding.problems == ["1 not marked as redelivered: w-2 at reader"]


def test_first_deliveries_in_another_order_than_the_logs_are_found() -> None:
    late = tuple(record for record in GOOD if record.key == "w-1" and record.agent)
    finding = judge(*handled(9.0, 1, SECOND), without=late)
    assert finding.problems == ["1 out of order: w-1 after w-7"]
    assert (
        judge(*handled(9.0, 1, SECOND), without=late, reading=replace(READING, in_order=False)).problems == []
    )


def test_two_handlers_of_an_agent_at_a_time_are_found() -> None:
    running = tuple(record for record in GOOD if record.event == "end" and record.key == "w-1")
    late = replace(running[0], at=2.05)
    assert judge(late, without=running).problems == ["1 beside another: w-2 beside w-1"]
    # While the broker is away a handler runs on, and nobody else may begin.
    assert judge(late, Record("broker_killed", 1.5, 1), without=running).problems != []
    assert judge(late, Record("frozen", 1.5, FIRST), without=running).problems == []


def test_data_that_a_broker_is_said_to_have_lost_is_found() -> None:
    told = Record("data_lost", 9.0, SECOND, agent=AGENT, channel=CHANNEL, note="its cursor was deleted")
    assert found(judge(told)) == "told of lost data"
