"""The independent count, and the summary made of it: no run that went wrong may look right."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from examples.stdlib_review.__main__ import tell
from examples.stdlib_review.messages import FileReview, FunctionFacts, Oddity, TaskResult
from examples.stdlib_review.records import Records, Sent
from examples.stdlib_review.summary import copied_functions, longest_functions, percentile, tables


def result(task_id: str, analyst: str = "analyst-1", name: str = "a.py") -> TaskResult:
    facts = [FunctionFacts("f", 1, 10, 2, 1, 90.0, "same"), FunctionFacts("g", 20, 5, 1, 0, 99.0)]
    review = FileReview(name, 30, facts, [Oddity("bare except", 3, "catches everything")])
    return TaskResult(task_id, analyst, 101.0, 101.5, review)


def records(sent: int, answered: int) -> Records:
    """Return the records of a run in which each message was begun once."""
    kept = Records()
    for number in range(sent):
        kept.sent[f"m{number}"] = Sent(f"{number}.py", "normal", 100.0)
    for number in range(answered):
        kept.begun[f"m{number}"] += 1
        kept.take_result(result(f"m{number}"))
    return kept


def test_a_run_in_which_everything_was_answered_is_complete_and_true() -> None:
    kept = records(3, 3)
    assert kept.complete
    assert kept.problems() == []
    assert kept.closing_line() == "3 sent, 3 processed, 0 lost, 0 redelivered"


def test_a_message_without_a_result_is_lost_and_the_line_is_not_true() -> None:
    kept = records(3, 2)
    assert not kept.complete
    assert kept.closing_line() == "3 sent, 2 processed, 1 lost, 0 redelivered"
    assert kept.problems() == ["1 messages have no result: m2"]


def test_a_second_result_counts_as_redelivered_and_not_as_processed() -> None:
    kept = records(2, 2)
    assert kept.take_result(result("m1", "analyst-4")) is False
    assert kept.closing_line() == "2 sent, 2 processed, 0 lost, 1 redelivered"
    assert kept.results["m1"].analyst == "analyst-1"
    assert kept.redelivered_messages() == ["m1"]


def test_a_second_beginning_counts_once_even_if_it_brought_a_second_result() -> None:
    kept = records(2, 2)
    kept.begun["m1"] += 1
    assert kept.redelivered == 1
    kept.take_result(result("m1"))
    assert kept.redelivered == 1


def test_a_result_for_nothing_sent_makes_the_line_untrue_and_is_not_processed() -> None:
    kept = records(1, 1)
    kept.take_result(result("stranger"))
    assert kept.processed == 1
    assert kept.problems() == ["1 results are for nothing sent: stranger"]


def test_what_a_killed_analyst_held_must_be_begun_again_even_if_its_result_is_there() -> None:
    kept = records(2, 2)
    kept.held_at_kill = {"m1"}
    assert not kept.complete
    assert kept.problems() == ["held by a killed analyst and never begun again: m1"]


def test_a_message_that_was_begun_again_is_no_problem() -> None:
    kept = records(2, 2)
    kept.held_at_kill = {"m1"}
    kept.begun["m1"] += 1
    assert kept.complete
    assert kept.problems() == []


def test_the_longest_functions_come_first_and_the_same_function_elsewhere_is_found() -> None:
    reviews = [result("m0", name="b.py").review, result("m1", name="a.py").review]
    assert [(name, facts.name) for name, facts in longest_functions(reviews, 3)] == [
        ("a.py", "f"),
        ("b.py", "f"),
        ("a.py", "g"),
    ]
    [copies] = copied_functions(reviews, 5)
    assert [name for name, _ in copies] == ["a.py", "b.py"]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([3.0], 0.5) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_the_summary_tells_functions_oddities_analysts_and_waits() -> None:
    console = Console(file=io.StringIO(), width=120)
    for table in tables(records(3, 3)):
        console.print(table)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("f", "bare except", "analyst-1", "1.00 s", "1.50 s", "normal"):
        assert expected in told


@pytest.mark.parametrize(("answered", "code"), [(3, 0), (2, 1)])
def test_the_exit_code_says_whether_the_last_line_is_true(answered: int, code: int) -> None:
    written = io.StringIO()
    kept = records(3, answered)
    assert tell(Console(file=written, width=120), kept, 1.0) == code
    assert written.getvalue().splitlines()[-1] == kept.closing_line()
