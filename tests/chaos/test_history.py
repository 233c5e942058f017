"""Histories survive the death of their writer, figures say what a zero is worth, plans follow their seed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.chaos.figure import percentile, zero_of
from tests.chaos.history import History, read_file, read_folder
from tests.chaos.plan import faults


def test_what_was_written_is_read_back_in_the_order_of_time(tmp_path: Path) -> None:
    early, late = History(tmp_path, "one"), History(tmp_path, "two")
    late.write("attempt", key="w-0", idempotent=True)
    early.write_many("stored", [{"key": "w-0", "message_id": "m"}, {"key": "w-1", "message_id": "n"}])
    early.close()
    late.close()
    records = read_folder(tmp_path)
    assert [(record.event, record.key) for record in records] == [
        ("attempt", "w-0"), ("stored", "w-0"), ("stored", "w-1"),
    ]  # fmt: skip
    assert records[0].idempotent and records[0].pid == os.getpid()


def test_a_torn_last_line_is_left_out_and_the_lines_before_it_stay(tmp_path: Path) -> None:
    history = History(tmp_path, "torn")
    history.write("begin", key="w-0")
    history.write("begin", key="w-1")
    history.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for length in range(first_line, len(whole)):
        path.write_bytes(whole[:length])
        assert [record.key for record in read_file(path)] == ["w-0"]


def test_a_killed_process_leaves_every_line_it_had_written(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        history = History(tmp_path, "victim")
        for number in range(1000):
            history.write("begin", key=f"w-{number}")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [record.key for record in read_folder(tmp_path)] == [f"w-{number}" for number in range(1000)]


def test_a_zero_is_shown_with_what_it_bounds() -> None:
    assert zero_of(0, 40, "kill") == "0 (with 95 % confidence below 0.075 per kill: 3/40)"
    assert zero_of(2, 40, "kill") == "2"


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (50.0, 99.0)
    assert percentile([7.0], 0.99) == 7.0


def test_the_same_seed_plans_the_same_faults_and_exactly_as_many_kills_as_asked() -> None:
    for kills in (1, 7, 40):
        plan = list(faults("seed", kills))
        assert plan == list(faults("seed", kills))
        assert sum(len(fault.targets) for fault in plan) == kills
    assert list(faults("seed", 40)) != list(faults("another", 40))
