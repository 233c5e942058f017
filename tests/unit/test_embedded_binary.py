from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentbus.broker.embedded import ServerBinary, find_server
from agentbus.errors import NoBroker

if TYPE_CHECKING:
    from pathlib import Path


def program(path: Path, prints: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def only_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))


def test_each_server_is_identified_by_what_it_prints(each_server: ServerBinary) -> None:
    assert each_server.kind in ("valkey", "redis")
    assert each_server.major >= 7
    assert find_server(each_server.path) == each_server


def test_a_redis_server_that_is_valkey_is_called_valkey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "redis-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=jemalloc bits=64")
    only_on_path(monkeypatch, tmp_path)

    found = find_server("redis-server")

    assert (found.kind, found.version, found.major) == ("valkey", "8.1.4", 8)


def test_valkey_on_the_path_comes_before_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "redis-server", "Redis server v=7.2.5 sha=0")
    program(tmp_path / "valkey-server", "Valkey server v=8.0.0 sha=0")
    only_on_path(monkeypatch, tmp_path)

    assert find_server().path == tmp_path / "valkey-server"


def test_a_server_on_the_path_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "valkey-server", "Redis server v=6.2.14 sha=0")
    program(tmp_path / "redis-server", "Redis server v=7.0.0 sha=0")
    only_on_path(monkeypatch, tmp_path)

    assert find_server().path == tmp_path / "redis-server"


def test_a_chosen_server_that_is_too_old_is_an_error_and_not_replaced(tmp_path: Path) -> None:
    old = program(tmp_path / "redis-server", "Redis server v=6.0.16 sha=0")

    with pytest.raises(NoBroker, match=r"version 6\.0\.16; 7\.0 is the oldest"):
        find_server(old)


def test_another_program_is_not_taken_for_a_server(tmp_path: Path) -> None:
    other = program(tmp_path / "keydb", "KeyDB server v=6.3.4 sha=0")

    with pytest.raises(NoBroker, match="neither Redis nor Valkey"):
        find_server(other)


def test_a_missing_server_names_what_was_tried_and_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_on_path(monkeypatch, tmp_path)

    with pytest.raises(NoBroker) as caught:
        find_server("redis-server")

    for part in ("not on PATH", "apt install", "brew install", "agentbus-redis[embedded]", "redis://"):
        assert part in str(caught.value)


def test_a_path_without_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoBroker, match="no such file"):
        find_server(tmp_path / "nothing")
