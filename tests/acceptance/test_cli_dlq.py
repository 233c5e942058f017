"""``agentbus dlq`` as a person uses it: look, retry, mend, resolve, drop; errors and exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentbus import Bus, BusSettings
from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine, interrupt, wait_for
from tests.acceptance.terminal import on_terminal
from tests.letters import make_dead


@pytest.fixture
def prefix(unique: Callable[[str], str]) -> str:
    return unique("dlq")


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, prefix: str) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=prefix, AGENTBUS_AGENT="ann")


@pytest.fixture
def dead(broker: BrokerForTests, prefix: str) -> Callable[..., list[str]]:
    """Make dead letters: ``dead("reviewer", {"pr": 1})``."""

    def make(name: str, *bodies: Any, **options: Any) -> list[str]:
        async def run() -> list[str]:
            async with Bus(broker.url, agent="planner", settings=BusSettings(prefix=prefix)) as bus:
                return await make_dead(bus, name, *bodies, **options)

        return asyncio.run(run())

    return make


def ledger(command: CommandLine, name: str) -> dict[str, Any]:
    (inbox,) = command.records("inbox", name)
    assert inbox["ledger"]["closes"] is True
    return dict(inbox["ledger"])


def test_a_letter_is_listed_shown_retried_once_and_handled(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    (id,) = dead("reviewer", {"pr": 7}, session_id="s1")
    (listed,) = command.records("dlq", "ls")
    assert (listed["id"], listed["status"], listed["reason"], listed["sender"]) == (
        id, "dead", "exhausted", "planner",
    )  # fmt: skip
    (shown,) = command.records("dlq", "show", id)
    assert shown == listed and shown["message"]["body"] == {"content": {"pr": 7}}
    assert (shown["session_id"], shown["last_failure"]["error"]) == ("s1", "boom")
    assert command.records("dlq", "retry", id) == [{"id": id, "result": "retried"}]
    again = command("dlq", "retry", id)
    assert (again.returncode, again.stdout) == (3, "") and "was retried" in again.stderr
    assert "by ann" in again.stderr
    (taken,) = command.records("sub", "reviewer", "--count", "1", "--timeout", "10s")
    assert taken["message"]["body"] == {"content": {"pr": 7}}
    assert ledger(command, "reviewer")["ended"]["processed"] == 1


def test_letters_are_edited_resolved_and_dropped(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    first, second, third, fourth = dead("reviewer", 1, 2, 3, 4)
    assert command.records("dlq", "edit", first, '{"pr": 8}') == [{"id": first, "result": "retried"}]
    assert command.records("dlq", "edit", second, "-", stdin='"from a pipe"')
    assert command.records("dlq", "resolve", third, "--note", "by hand")
    assert command.records("dlq", "drop", fourth)
    taken = command.records("sub", "reviewer", "--count", "2", "--timeout", "10s")
    assert [each["message"]["body"]["content"] for each in taken] == [{"pr": 8}, "from a pipe"]
    (resolved,) = command.records("dlq", "ls", "--status", "resolved")
    assert (resolved["id"], resolved["resolution"], resolved["resolved_by"]) == (third, "by hand", "ann")
    ended = ledger(command, "reviewer")["ended"]
    assert (ended["resolved"], ended["discarded"], ended["processed"]) == (1, 1, 2)


def test_many_are_retried_by_filter_at_a_rate(command: CommandLine, dead: Callable[..., list[str]]) -> None:
    dead("a", *range(30))
    dead("b", 1, reason="rejected")
    (done,) = command.records(
        "dlq", "retry", "--reason", "exhausted", "--since", "1h", "--rate", "500", "--yes"
    )
    assert (done["retried"], done["complete"]) == (30, True)
    assert [letter["address"] for letter in command.records("dlq", "ls")] == ["agent.b"]
    (done,) = command.records("dlq", "retry", "--all", "--yes")
    assert done["retried"] == 1
    assert ledger(command, "a")["waiting"] == 30


def test_ctrl_c_ends_a_retry_of_many_and_says_how_far_it_came(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    dead("a", *range(100))
    with command.running("dlq", "retry", "--address", "a", "--rate", "20", "--yes") as process:

        def begun() -> bool:
            (inbox,) = command.records("inbox", "a")
            return bool(inbox["ledger"]["waiting"] > 0)

        wait_for(begun)
        code, out, err = interrupt(process)
    done = json.loads(out)
    assert code == 1 and done["complete"] is False and 0 < done["retried"] < 100, err
    assert ledger(command, "a")["dead"] == 100 - done["retried"]


def test_pages_are_turned_with_what_the_page_before_says(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    ids = dead("a", *range(5))
    first = command("dlq", "ls", "--limit", "3")
    after = first.stderr.split("--after '")[1].split("'")[0]
    rest = command.records("dlq", "ls", "--limit", "3", "--after", after)
    found = [json.loads(line)["id"] for line in first.stdout.splitlines()] + [each["id"] for each in rest]
    assert found == ids[::-1]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("ls", "--status", "alive"), 2, "status"),
        (("ls", "--since", "yesterday"), 2, "since"),
        (("ls", "--limit", "0"), 2, "limit"),
        (("ls", "--address", "channel.x"), 2, "address"),
        (("show", "nonsense"), 2, "id: 'nonsense'"),
        (("show", "agent.x:1-1"), 3, "no dead letter"),
        (("retry",), 2, "name letters"),
        (("retry", "agent.x:1-1", "--all"), 2, "not both"),
        (("retry", "--all"), 2, "--yes"),
        (("retry", "--sender", "nobody", "--yes"), 3, "matches: sender nobody"),
        (("retry", "--all", "--yes", "--rate", "0"), 2, "rate"),
        (("edit", "agent.x:1-1", "{nonsense"), 2, "body"),
        (("edit", "agent.x:1-1"), 2, "editor"),
        (("resolve", "agent.x:1-1"), 2, "--note"),
        (("resolve", "agent.x:1-1", "--note", " "), 2, "note"),
        (("drop", "agent.x:1-1"), 3, "no dead letter"),
    ],
)
def test_what_cannot_work_says_why_and_changes_nothing(
    command: CommandLine, dead: Callable[..., list[str]], arguments: tuple[str, ...], code: int, text: str
) -> None:
    finished = command("dlq", *arguments)
    assert (finished.returncode, finished.stdout) == (code, ""), finished.stderr
    assert text in finished.stderr and "Traceback" not in finished.stderr


def test_a_letter_that_cannot_be_retried_does_not_keep_others_from_it(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    (id,) = dead("a", 1)
    finished = command("dlq", "retry", "agent.a:1-1", id)
    assert finished.returncode == 3 and "no dead letter agent.a:1-1" in finished.stderr
    assert json.loads(finished.stdout) == {"id": id, "result": "retried"}


# --- on a terminal ---


def test_a_person_is_asked_before_many_are_retried(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    dead("a", 1, 2)
    many = ("dlq", "retry", "--address", "a")
    refused = on_terminal(command, *many, dialogue=[("[y/N]", "n\n")])
    assert refused.code == 1 and "retry dead letters (address agent.a)?" in refused.text
    assert on_terminal(command, *many, dialogue=[("[y/N]", "\x03")]).code == 130
    assert ledger(command, "a")["dead"] == 2
    agreed = on_terminal(command, *many, dialogue=[("[y/N]", "y\n")])
    assert agreed.code == 0 and "2 dead letters retried" in agreed.text
    assert ledger(command, "a")["waiting"] == 2


def test_an_editor_mends_a_body_and_what_was_written_is_never_lost(
    command: CommandLine, dead: Callable[..., list[str]], tmp_path: Path
) -> None:
    (id,) = dead("a", {"pr": 7})
    tries = (
        ("/none/such", 2, "cannot be started"), ("true", 1, "nothing was changed"),
        ("sed -i s/7/x/", 2, "body: is not JSON"),
    )  # fmt: skip
    for editor, code, text in tries:
        shown = on_terminal(command, "dlq", "edit", id, VISUAL=editor, TMPDIR=str(tmp_path))
        assert (shown.code, text in shown.text, "Traceback" in shown.text) == (code, True, False), shown
    (kept,) = tmp_path.glob("agentbus-*/body.json")
    assert str(kept) in shown.text and "x" in kept.read_text()
    shown = on_terminal(command, "dlq", "edit", id, VISUAL="sed -i s/7/8/", TMPDIR=str(tmp_path))
    assert (shown.code, "retried" in shown.text) == (0, True), shown
    assert list(tmp_path.glob("agentbus-*")) == [kept.parent]
    (message,) = command.records("tail", "agent.a", "--last", "1", "--no-follow")
    assert message["message"]["body"]["content"] == {"pr": 8}
    shown = on_terminal(command, "dlq", "edit", id, VISUAL="touch opened", TMPDIR=str(tmp_path))
    assert shown.code == 3 and not (tmp_path / "opened").exists(), shown


def test_an_id_can_be_copied_from_a_narrow_table(
    command: CommandLine, dead: Callable[..., list[str]]
) -> None:
    (id,) = dead("a-name-of-some-length", 1)
    for columns, detail in (("80", False), ("140", True)):
        shown = on_terminal(command, "dlq", "ls", COLUMNS=columns)
        assert id in shown.text and ("boom" in shown.text) is detail, shown.text
