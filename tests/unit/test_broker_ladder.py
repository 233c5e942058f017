"""The ladder by which the project's tests find a broker."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from tests import brokers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentbus.broker.embedded import PrivateBroker, ServerBinary
    from agentbus.testing import BrokerForTests


@contextmanager
def engine(answer: bytes | None) -> Iterator[dict[str, str]]:
    """Listen like a Docker engine that gives one answer, or with None never any."""
    with tempfile.TemporaryDirectory(prefix="ab-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/docker.sock")
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            with listener.accept()[0] as line:
                assert line.recv(1024).startswith(b"GET /_ping ")
                line.sendall(answer) if answer is not None else done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
        finally:
            done.set()
            thread.join()


def test_a_docker_engine_that_answers_is_seen() -> None:
    with engine(b"HTTP/1.0 200 OK\r\n\r\nOK") as environment:
        assert brokers.docker_answers(environment)


def test_a_docker_engine_that_refuses_is_not_used() -> None:
    with engine(b"HTTP/1.0 500 Internal Server Error\r\n\r\n") as environment:
        assert not brokers.docker_answers(environment)


def test_a_docker_engine_that_hangs_costs_no_more_than_the_timeout() -> None:
    began = time.monotonic()
    with engine(None) as environment:
        assert not brokers.docker_answers(environment, timeout=0.2)
    assert time.monotonic() - began < 2


def test_no_docker_engine_is_no_error(tmp_path: Path) -> None:
    for host in (f"unix://{tmp_path}/none.sock", "tcp://127.0.0.1:1", "ssh://somewhere"):
        assert not brokers.docker_answers({"DOCKER_HOST": host})


def test_an_engine_is_passed_over_when_the_environment_names_a_server(each_server: ServerBinary) -> None:
    environment = {"DOCKER_HOST": "unix:///nowhere", "AGENTBUS_TEST_SERVER": str(each_server.path)}

    assert brokers.describe(environment) == str(each_server)
    with brokers.open_broker(environment) as opened:
        assert opened.description == str(each_server)


def test_the_header_names_the_version_behind_a_url(
    private_broker: Callable[..., PrivateBroker], each_server: ServerBinary
) -> None:
    server = private_broker(each_server)

    shown = brokers.describe({"AGENTBUS_TEST_URL": server.url})

    assert shown == f"{each_server.kind} {each_server.version} (AGENTBUS_TEST_URL)"


def test_the_header_says_when_a_url_does_not_answer(tmp_path: Path) -> None:
    assert "does not answer" in brokers.describe({"AGENTBUS_TEST_URL": f"unix://{tmp_path}/none.sock"})


def test_the_header_says_when_there_is_no_broker_at_all(tmp_path: Path) -> None:
    assert brokers.describe({"AGENTBUS_TEST_SERVER": str(tmp_path / "none")}).startswith("NONE")


def test_the_shared_broker_of_this_run_answers(broker: BrokerForTests) -> None:
    with redis.Redis.from_url(broker.url) as client:
        assert client.ping()
    if broker.private is not None:
        assert Path(broker.private.folder).exists()


def test_unique_names_follow_the_grammar_and_differ(unique: Callable[[str], str]) -> None:
    names = {unique("reviewer") for _ in range(100)}

    assert len(names) == 100
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name) for name in names)
