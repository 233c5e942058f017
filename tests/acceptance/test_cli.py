"""``agentbus`` on a broker that runs: messages out and in, looks, errors and exit codes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentbus.broker.embedded import PrivateBroker, find_server
from agentbus.errors import NoBroker
from agentbus.testing import BrokerForTests, skip_or_fail
from tests.acceptance.cli_process import CommandLine, end, interrupt, terminate

LARGEST_ID = "18446744073709551615-18446744073709551615"


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url)


def test_a_message_is_sent_seen_taken_and_traced(command: CommandLine, unique: Callable[[str], str]) -> None:
    name = unique("reviewer")
    (stored,) = command.records(
        "pub", f"agent.{name}.task", '{"pr": 7}', "--priority", "low", "--from", "planner",
        "--metadata", '{"repo": "core"}', "--correlation-id", "c-1",
    )  # fmt: skip
    assert stored["known"] is False and stored["durability"] == "stream" and stored["entry_id"]
    (inbox,) = command.records("inbox", name)
    assert {lane["name"]: lane["waiting"] for lane in inbox["lanes"]}["low"] == 1
    assert inbox["ledger"]["closes"] is True
    (seen,) = command.records("tail", name, "--no-follow")
    (taken,) = command.records("sub", name, "--count", "1", "--timeout", "10s")
    assert seen["message"] == taken["message"]
    assert taken["message"]["body"] == {"content": {"pr": 7}, "metadata": {"repo": "core"}}
    assert (taken["message"]["from_agent"], taken["message"]["correlation_id"]) == ("planner", "c-1")
    (trace,) = command.records("trace", stored["message_id"], "--address", name)
    assert [(p["status"], p["outcome"]) for p in trace["places"]] == [("ended", "processed")]
    (inbox,) = command.records("inbox", name)
    assert inbox["ledger"]["ended"]["processed"] == 1 and inbox["ledger"]["closes"] is True


def test_many_messages_come_from_stdin_and_refused_lines_are_named(
    command: CommandLine, unique: Callable[[str], str]
) -> None:
    name = unique("lines")
    stored = command.records("pub", f"agent.{name}.task", "--lines", stdin="1\n\n[2]\n")
    assert [record["address"] for record in stored] == [f"agent.{name}"] * 2
    finished = command("pub", f"agent.{name}.task", "--lines", stdin="3\n{nonsense\n4")
    assert finished.returncode == 1
    assert len(finished.stdout.splitlines()) == 2
    assert "line 2: body" in finished.stderr
    contents = [seen["message"]["body"]["content"] for seen in command.records("tail", name, "--no-follow")]
    assert contents == [1, [2], 3, 4]


def test_lines_are_sent_as_they_come(command: CommandLine, unique: Callable[[str], str]) -> None:
    name = unique("live")
    process = subprocess.Popen(
        [sys.executable, "-m", "agentbus.cli", "pub", f"agent.{name}.task", "--lines", "--text"],
        cwd=command.folder, env=command.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("first\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["address"] == f"agent.{name}"
    finally:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.count("Traceback")) == (0, "", 0)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("pub", "agent.x.y", "{pr}"), 2, "is not JSON"),
        (("pub", "agent.X.y", "1"), 2, "'X' is not a name"),
        (("pub", "agent.nobody-ever.y", "1", "--strict"), 3, "nobody has ever served"),
        (("pub", "agent.x.y", "1", "--context", "[1]"), 2, "context: must be a JSON object"),
        (("pub", "agent.nobody-ever.y", "1", "--request", "--timeout", "200ms"), 5, "nobody answered"),
        (("pub", "agent.x.y", "1", "--url", "redis://127.0.0.1:1"), 4, "is --url"),
        (("pub", "agent.x.y", "1", "--url", "http://x"), 2, "is not a broker URL"),
        (("sub", "nobody-ever", "--timeout", "100ms"), 5, "nothing came"),
        (("inbox", "nobody-at-all"), 3, "nothing was ever sent"),
        (("trace", "01980000-0000-7000-8000-000000000000", "-a", "nobody-at-all"), 3, "was not found"),
        (("run", "no_such_module:agent"), 2, "there is no module"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    command: CommandLine, arguments: tuple[str, ...], code: int, text: str
) -> None:
    finished = command(*arguments)
    assert (finished.returncode, finished.stdout) == (code, "")
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("agentbus: ") and text in last
    assert "Traceback" not in finished.stderr


def test_ctrl_c_ends_a_sub_cleanly_and_takes_nothing_more(
    command: CommandLine, unique: Callable[[str], str]
) -> None:
    name = unique("stopped")
    command.records("pub", f"agent.{name}.task", "1")
    with command.running("sub", name) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["message"]["body"]["content"] == 1
        code, out, err = interrupt(process)
    assert (code, out) == (130, "")
    assert "nobody else gets it" in err
    assert "Traceback" not in err
    command.records("pub", f"agent.{name}.task", "2")
    (inbox,) = command.records("inbox", name)
    assert (inbox["waiting"], inbox["in_flight"], inbox["consumers"]) == (1, 0, [])
    assert inbox["ledger"]["ended"]["processed"] == 1


def test_a_reader_that_leaves_the_pipe_costs_no_message(
    command: CommandLine, unique: Callable[[str], str]
) -> None:
    name = unique("pipe")
    command.records("pub", f"agent.{name}.task", "--lines", stdin="1\n2\n3\n")
    with command.running("sub", name, "--timeout", "10s") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=20)
    (inbox,) = command.records("inbox", name)
    # One was printed for sure, a second perhaps into the pipe; nothing is lost and no attempt is spent.
    assert inbox["ledger"]["closes"] and inbox["waiting"] >= 1 and inbox["ledger"]["moves"]["retried"] == 0


def test_a_tail_follows_without_taking_and_ends_by_a_signal(
    command: CommandLine, unique: Callable[[str], str]
) -> None:
    name = unique("tailed")
    command.records("pub", f"agent.{name}.note", "0")
    with command.running("tail", f"agent.{name}.task", "-n", "0") as process:
        assert process.stdout is not None
        # What came before the tail looked is passed over: send until it shows something.
        rounds, shown = 0, False
        while not shown:
            command.records("pub", f"agent.{name}.note", "1")
            command.records("pub", f"agent.{name}.task", "2", "--priority", "high")
            rounds, shown = rounds + 1, bool(select.select([process.stdout], [], [], 0.2)[0])
        found = json.loads(process.stdout.readline())
        assert (found["stream"], found["message"]["body"]["content"]) == ("high", 2)
        code, _, err = terminate(process)
    assert code == 143 and "Traceback" not in err
    (inbox,) = command.records("inbox", name)
    assert inbox["waiting"] == 1 + 2 * rounds and inbox["ledger"]["ended"]["processed"] == 0


def test_the_doctor_finds_what_is_wrong_and_repairs_a_lane(
    command: CommandLine, broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    import redis

    prefix, name = unique("sick"), "patient"
    command.records("pub", f"agent.{name}.task", "1", "--prefix", prefix)
    healthy = command("doctor", "--prefix", prefix)
    assert healthy.returncode == 0, healthy.stdout
    subjects = {json.loads(line)["subject"] for line in healthy.stdout.splitlines()}
    assert subjects >= {"reachable", "version", "eviction", "memory", "clock", "scripts", "durability disk"}
    assert any("nobody has ever served it" in line for line in healthy.stdout.splitlines())
    with redis.Redis.from_url(broker.url) as client:
        root = f"{prefix}:{{agent.{name}}}:"
        client.xadd(f"{root}lane:normal", {"message": "made by hand"}, id=LARGEST_ID)
    sick = command("doctor", "--prefix", prefix)
    assert sick.returncode == 1
    bad = [json.loads(line) for line in sick.stdout.splitlines() if '"bad"' in line]
    assert [(finding["subject"], finding["advice"]) for finding in bad] == [
        (f"agent.{name}", f"agentbus doctor --repair {name}")
    ]
    assert command("pub", f"agent.{name}.task", "2", "--prefix", prefix).returncode == 1
    command.records("doctor", "--repair", name, "--prefix", prefix)
    assert command("doctor", "--prefix", prefix).returncode == 0
    command.records("pub", f"agent.{name}.task", "2", "--prefix", prefix)
    (inbox,) = command.records("inbox", name, "--prefix", prefix)
    assert inbox["waiting"] == 3 and inbox["ledger"]["closes"]


@pytest.mark.parametrize(("setting", "warned"), [("yes", True), ("no", False)])
def test_the_doctor_warns_of_a_redis_that_may_keep_half_a_step(
    command: CommandLine, private_broker: Callable[..., PrivateBroker], setting: str, warned: bool
) -> None:
    try:
        server = find_server("redis-server")
    except NoBroker as reason:
        skip_or_fail(reason, os.environ)
    url = private_broker(server, config={"aof-load-truncated": setting}).url
    findings = [json.loads(line) for line in command("doctor", "--url", url).stdout.splitlines()]
    advice = [finding["advice"] for finding in findings if finding["subject"] == "torn file"]
    assert [text[:21] for text in advice] == ["aof-load-truncated no"] * warned


def test_the_doctor_reports_a_server_that_cannot_be_reached(command: CommandLine) -> None:
    finished = command("doctor", "--url", "redis://user:secret@127.0.0.1:1")
    assert finished.returncode == 4
    (finding,) = [json.loads(line) for line in finished.stdout.splitlines()]
    assert finding["status"] == "bad" and "cannot be reached" in finding["detail"]
    assert "secret" not in finished.stdout + finished.stderr


def test_a_foreign_key_is_named_by_the_doctor_and_hides_no_other_address(
    command: CommandLine, broker: BrokerForTests, unique: Callable[[str], str]
) -> None:
    import redis

    prefix = unique("foreign")
    command.records("pub", "agent.fine.task", "1", "--prefix", prefix)
    with redis.Redis.from_url(broker.url) as client:
        client.sadd(f"{prefix}:addresses", "agent.broken")
        client.set(f"{prefix}:{{agent.broken}}:due", "mine")
    finished = command("doctor", "--prefix", prefix)
    assert finished.returncode == 1 and "is a string, not a zset" in finished.stdout
    listed = command("inbox", "--prefix", prefix)
    assert [json.loads(line)["address"] for line in listed.stdout.splitlines()] == ["agent.fine"]
    assert "agent.broken" in listed.stderr


def test_a_terminal_gets_tables_and_colours_only_where_wanted(
    command: CommandLine, unique: Callable[[str], str]
) -> None:
    name = unique("terminal")
    command.records("pub", f"agent.{name}.task", "1")
    coloured = on_a_terminal(command, "inbox", name)
    assert "\x1b[" in coloured and "waiting" in coloured and "closes" in coloured
    command.environment["NO_COLOR"] = "1"
    plain = on_a_terminal(command, "inbox", name)
    assert "\x1b[3" not in plain and "closes" in plain


def on_a_terminal(command: CommandLine, *arguments: str) -> str:
    """Run a command on a pseudo terminal and return what it wrote there."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentbus.cli", *arguments],
        cwd=command.folder, env={**command.environment, "TERM": "xterm-256color", "COLUMNS": "120"},
        stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(slave)
    written = b""
    try:
        while data := os.read(master, 65536):
            written += data
    except OSError:
        # Linux reports the end of a pseudo terminal as an error.
        pass
    finally:
        os.close(master)
    code, _, err = end(process)
    assert code == 0, err
    return written.decode()
