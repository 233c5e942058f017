"""``agentbus policy``: shown, declared, refused when contradicted, replaced and withdrawn on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from agentbus.testing import BrokerForTests
from tests.acceptance.cli_process import CommandLine

Unique = Callable[[str], str]


@pytest.fixture
def command(broker: BrokerForTests, tmp_path: Path, unique: Unique) -> CommandLine:
    return CommandLine(tmp_path, AGENTBUS_URL=broker.url, AGENTBUS_PREFIX=unique("p"))


def test_a_policy_is_declared_refused_when_contradicted_and_replaced_on_purpose(command: CommandLine) -> None:
    (told,) = command.records("policy", "set", "painter", "limit=5", "ttl=90s", "retry_delay=1.5")
    assert told == {
        "address": "agent.painter", "before": {},
        "after": {"limit": 5, "ttl": "1m30s", "retry_delay": "1s500ms"},
    }  # fmt: skip
    refused = command("policy", "set", "agent.painter", "limit=6")
    assert refused.returncode == 1
    assert "limit is 5, not 6" in refused.stderr and "--replace" in refused.stderr
    (told,) = command.records("policy", "set", "painter", "limit=6", "--replace")
    assert (told["before"]["limit"], told["after"]) == (5, {"limit": 6})


def test_a_topic_shows_what_it_has_of_its_own_of_its_address_and_by_default(command: CommandLine) -> None:
    command.records("policy", "set", "painter", "max_retries=1", "ttl=1h")
    command.records("policy", "set", "agent.painter.task", "max_retries=5")
    (told,) = command.records("policy", "show", "agent.painter.task")
    assert told["in_force"]["max_retries"] == {"value": 5, "from": "topic"}
    assert told["in_force"]["ttl"] == {"value": "1h", "from": "address"}
    assert told["in_force"]["retry_delay"] == {"value": "30s", "from": "default"}
    assert "limit" not in told["in_force"]
    assert command.records("policy", "show") == [
        {"address": "agent.painter", "policy": {"max_retries": 1, "ttl": "1h"}},
        {"address": "agent.painter.task", "policy": {"max_retries": 5}},
    ]
    (inbox,) = command.records("inbox", "painter")
    assert inbox["policy"] == {"agent.painter": {"max_retries": 1, "ttl": "1h"},
                               "agent.painter.task": {"max_retries": 5}}  # fmt: skip
    found = {finding["subject"]: finding for finding in command.records("doctor")}
    assert found["policies"]["detail"] == "2 declared"


def test_clearing_withdraws_one_and_says_when_there_is_none(command: CommandLine) -> None:
    command.records("policy", "set", "agent.painter.task", "ttl=1m")
    (told,) = command.records("policy", "clear", "agent.painter.task")
    assert (told["before"], told["after"]) == ({"ttl": "1m"}, {})
    assert command.records("policy", "show") == []
    assert command("policy", "clear", "agent.painter.task").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("painter", "limits=5"), "limits: is no field of a policy; did you mean limit"),
     (("painter", "limit"), "'limit' is not field=value"),
     (("painter", "limit=many"), "limit: must be a whole number of 1 or more, not 'many'"),
     (("painter", "ttl=soon"), "ttl: must be a duration"),
     (("agent.painter.task", "limit=5"), "declare it for agent.painter, not for agent.painter.task"),
     (("no such name", "limit=5"), "is not a name")],
)  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error_and_changes_nothing(
    command: CommandLine, arguments: tuple[str, ...], words: str
) -> None:
    finished = command("policy", "set", *arguments)
    assert (finished.returncode, words in finished.stderr) == (2, True), finished.stderr
    assert command.records("policy", "show") == []


def test_a_field_that_is_spelled_almost_right_is_recognised(command: CommandLine) -> None:
    finished = command("policy", "set", "painter", "retry_delays=5s")
    assert "did you mean retry_delay or dead_retry_delay?" in finished.stderr


def test_a_contradiction_is_told_as_people_write_it(command: CommandLine) -> None:
    command.records("policy", "set", "painter", "ttl=90s", "limit=5")
    finished = command("policy", "set", "painter", "ttl=1h")
    assert "limit is 5, not unset; ttl is 1m30s, not 1h" in finished.stderr


def test_a_policy_made_by_hand_is_contradicted_like_any_other(
    command: CommandLine, broker: BrokerForTests
) -> None:
    command.records("pub", "agent.painter.task", "1")
    with redis.Redis.from_url(broker.url) as server:
        prefix = command.environment["AGENTBUS_PREFIX"]
        server.hset(f"{prefix}:{{agent.painter}}:policy", mapping={"limit": "5", "ttl_ms": "60000"})
        finished = command("policy", "set", "painter", "limit=6", "ttl=2m")
        assert finished.returncode == 1
        assert "limit is 5, not 6; ttl is 1m, not 2m" in finished.stderr
        server.hset(f"{prefix}:{{agent.painter}}:policy", "ttl_ms", "soon")
    finished = command("policy", "set", "painter", "limit=6", "ttl=1m")
    assert finished.returncode == 1
    assert "agent.painter: ttl: is stored as 'soon', which is no number" in finished.stderr
    assert "repair or delete" in finished.stderr and ":policy" in finished.stderr
