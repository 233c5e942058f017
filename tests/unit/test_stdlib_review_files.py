"""From the bytes of a file to its review, and which files there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.stdlib_review.analyst import review_task
from examples.stdlib_review.corpus import library_folder, library_tasks, priority
from examples.stdlib_review.messages import FileTask
from examples.stdlib_review.review import review_file


def test_a_review_has_functions_and_oddities_in_the_order_of_the_file() -> None:
    source = b"import os\n\n\ndef f(list=[]):\n    return list\n# TODO: more\n"
    review = review_file("a.py", source)
    assert (review.name, review.lines) == ("a.py", 6)
    assert [facts.name for facts in review.functions] == ["f"]
    assert [(oddity.line, oddity.kind) for oddity in review.oddities] == [
        (1, "unused import"),
        (4, "mutable default"),
        (4, "shadowed builtin"),
        (6, "unfinished work"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(b"print 'old'\n", id="another Python"),
        pytest.param(b"# coding: no-such-code\n", id="unknown encoding"),
        pytest.param(b"a = '\xff'\n", id="not utf-8"),
        pytest.param(b"a = 1\0\n", id="null byte"),
    ],
)
def test_a_file_that_does_not_parse_is_reviewed_with_that_as_its_oddity(source: bytes) -> None:
    review = review_file("bad.py", source)
    assert [oddity.kind for oddity in review.oddities] == ["does not parse"]
    assert review.oddities[0].detail
    assert review.lines == 1


def test_an_expression_too_deep_to_follow_is_reviewed_with_that_as_its_oddity() -> None:
    review = review_file("deep.py", b"a = " + b"-" * 1500 + b"1\n")
    assert [oddity.kind for oddity in review.oddities] in (["too deep to examine"], ["does not parse"])


def test_an_empty_file_has_no_lines_and_no_oddities() -> None:
    review = review_file("empty.py", b"")
    assert (review.lines, review.functions, review.oddities) == (0, [], [])


def test_a_file_that_cannot_be_read_is_reviewed_with_that_as_its_oddity(tmp_path: Path) -> None:
    review = review_task(FileTask(str(tmp_path / "gone.py"), "gone.py"))
    assert [oddity.kind for oddity in review.oddities] == ["cannot be read"]


def test_the_library_is_found_without_what_was_installed_into_it(tmp_path: Path) -> None:
    for name in ("os.py", "json/decoder.py", "site-packages/x.py", "__pycache__/y.py", "notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert [task.name for task in library_tasks(tmp_path)] == ["json/decoder.py", "os.py"]


def test_a_limit_spreads_the_files_over_the_library(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"m{number:02}.py").touch()
    names = [task.name for task in library_tasks(tmp_path, limit=4)]
    assert names == ["m00.py", "m25.py", "m50.py", "m75.py"]


def test_the_running_python_has_a_library_with_tasks_of_every_priority_in_use() -> None:
    tasks = library_tasks(library_folder())
    levels = {priority(task.name) for task in tasks}
    assert len(tasks) > 300
    assert {"critical", "high", "normal"} <= levels


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("os.py", "critical"),
        ("argparse.py", "high"),
        ("email/parser.py", "normal"),
        ("test/test_os.py", "low"),
        ("idlelib/editor.py", "background"),
        ("idlelib/idle_test/test_editor.py", "low"),
    ],
)
def test_the_more_programs_depend_on_a_file_the_more_urgent_it_is(name: str, level: str) -> None:
    assert priority(name) == level
