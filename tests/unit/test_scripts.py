"""The Lua scripts as files."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import pytest

from agentbus.broker.scripts import Call, load

NAMES = sorted(
    path.name.removesuffix(".lua")
    for path in (resources.files("agentbus.broker") / "lua").iterdir()
    if path.name.endswith(".lua")
)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_takes_and_its_digest_is_of_its_text(name: str) -> None:
    script = load(name)
    assert script.digest == hashlib.sha1(script.text.encode()).hexdigest()
    assert "--@include" not in script.text
    assert script.text.startswith("#!lua")
    for word in ("-- KEYS", "Returns"):
        assert word in script.text


@pytest.mark.parametrize("name", NAMES)
def test_only_what_needs_more_memory_is_refused_by_a_full_server(name: str) -> None:
    may_run = load(name).text.splitlines()[0] == "#!lua flags=allow-oom"
    grows = {"append", "notice", "publish", "receipt_open", "repair", "retry_letter", "schedule_add", "tick"}
    assert may_run is (name not in grows)


@pytest.mark.parametrize("name", NAMES)
def test_no_script_reads_a_clock_but_the_servers_or_makes_up_keys(name: str) -> None:
    text = re.sub(r"--.*", "", load(name).text)
    assert "os.time" not in text
    # A key that is not declared breaks in a cluster.
    assert not re.search(
        r"redis\.p?call\('(?!XREADGROUP|XGROUP|XINFO|MEMORY)\w+', '", text.replace("redis.call('TIME'", "")
    )


def test_a_call_is_the_same_by_digest_and_by_text() -> None:
    call = Call(load("beat"), ("k1", "k2"), (1, b"x"))
    assert call.by_digest()[2:] == call.by_text()[2:] == (2, "k1", "k2", 1, b"x")
    assert load("beat") is load("beat")
