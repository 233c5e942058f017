"""Names of keys."""

from __future__ import annotations

import dataclasses
import re

import pytest

from agentbus.broker.key_catalogue import CATALOGUE
from agentbus.broker.keys import SOURCES, addresses, check_prefix, inbox_keys, reply_log
from agentbus.errors import InvalidValue


def test_everything_of_an_address_shares_one_hash_tag() -> None:
    keys = inbox_keys("agentbus", "agent.reviewer")
    names = [value for value in dataclasses.astuple(keys) if isinstance(value, str)]
    names += keys.sources
    names.remove("agent.reviewer")
    assert len(set(names)) == len(names) > 15
    for name in names:
        assert re.findall(r"\{(.*?)\}", name) == ["agent.reviewer"]
        assert name.startswith("agentbus:{agent.reviewer}:")


def test_every_key_of_an_inbox_is_in_the_catalogue() -> None:
    patterns = [
        re.escape(info.pattern).replace(re.escape("{<address>}"), r"\{agent\.x\}") for info in CATALOGUE
    ]
    patterns = [re.sub(r"<\w+>", "[^:]*", pattern) for pattern in patterns]
    keys = inbox_keys("p", "agent.x")
    for field in dataclasses.fields(keys):
        if field.name in ("address", "sources", "nudge"):
            continue
        name = str(getattr(keys, field.name)).removeprefix("p:")
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name
    for source in keys.sources:
        assert any(re.fullmatch(pattern, source.removeprefix("p:")) for pattern in patterns), source


def test_catalogue_rows_are_whole_and_unique() -> None:
    assert len({info.pattern for info in CATALOGUE}) == len(CATALOGUE)
    assert all(dataclasses.astuple(info) and "" not in dataclasses.astuple(info) for info in CATALOGUE)


def test_returned_is_read_before_the_lanes() -> None:
    assert SOURCES[0] == "returned"
    assert inbox_keys("p", "agent.x").priority_lanes == inbox_keys("p", "agent.x").sources[1:]


@pytest.mark.parametrize("prefix", ["", "a:b", "{a}", "a b", "x" * 64, "ü", "a\n"])
def test_a_prefix_cannot_break_a_hash_tag(prefix: str) -> None:
    with pytest.raises(InvalidValue, match="prefix"):
        check_prefix(prefix)
    assert check_prefix("team-1.agentbus_2")


def test_keys_outside_addresses() -> None:
    assert addresses("p") == "p:addresses"
    assert reply_log("p", "abc") == "p:{reply.abc}:log"
