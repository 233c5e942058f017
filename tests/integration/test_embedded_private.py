"""A private server: broken and brought back, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from agentbus.broker.embedded import PrivateBroker, ServerBinary
from agentbus.errors import BrokerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 10.0

#: Starts a private broker in a thread that ends, forks a child that keeps all descriptors, and waits.
OWNER = """
import asyncio, os, sys, time
from agentbus.broker.embedded import PrivateBroker, find_server
async def main():
    broker = await PrivateBroker(find_server(sys.argv[1])).__aenter__()
    return broker
broker = asyncio.run(main())
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(broker.pid, broker.folder, child, broker.running, flush=True)
sys.stdin.read()
"""


def lives(pid: int) -> bool:
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip()[:1] not in ("", "Z")


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.01)


async def test_the_context_starts_a_server_and_leaves_nothing(each_server: ServerBinary) -> None:
    async with PrivateBroker(each_server) as broker:
        pid, folder = broker.pid, broker.folder
        with redis.Redis.from_url(broker.url) as client:
            assert client.info("server")["process_id"] == pid

    assert not lives(pid)
    assert not folder.exists()
    assert not broker.running


def test_a_killed_server_comes_back_with_its_data(
    private_broker: Callable[..., PrivateBroker], each_server: ServerBinary
) -> None:
    broker = private_broker(each_server)
    with redis.Redis.from_url(broker.url) as client:
        for number in range(200):
            client.xadd("stream", {"message": str(number)})
        url, pid = broker.url, broker.pid
        broker.kill()
        assert not broker.running
        broker.start()

        assert (broker.url, broker.pid != pid) == (url, True)
        assert client.xlen("stream") == 200


def test_without_an_append_only_file_a_restart_forgets(
    private_broker: Callable[..., PrivateBroker], each_server: ServerBinary
) -> None:
    broker = private_broker(each_server, appendonly=False)
    with redis.Redis.from_url(broker.url) as client:
        client.set("key", "value")
        broker.restart()

        assert client.dbsize() == 0


def test_a_paused_server_answers_nobody_until_it_is_resumed(
    private_broker: Callable[..., PrivateBroker], each_server: ServerBinary
) -> None:
    broker = private_broker(each_server)
    with redis.Redis.from_url(broker.url, socket_timeout=0.2, retry=None) as client:
        client.ping()
        broker.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        assert broker.running
        broker.resume()

        assert client.ping()


def test_a_paused_server_can_be_closed(private_broker: Callable[..., PrivateBroker]) -> None:
    broker = private_broker()
    pid = broker.pid
    broker.pause()
    broker.close()

    assert not lives(pid)


def test_options_reach_the_server(
    private_broker: Callable[..., PrivateBroker], each_server: ServerBinary
) -> None:
    broker = private_broker(each_server, appendfsync="always", maxmemory="8mb", config={"maxclients": "77"})

    with redis.Redis.from_url(broker.url) as client:
        read = client.config_get("appendfsync", "maxmemory", "maxclients")
    assert read == {"appendfsync": "always", "maxmemory": str(8 * 1024 * 1024), "maxclients": "77"}


def test_flush_deletes_every_key(private_broker: Callable[..., PrivateBroker]) -> None:
    broker = private_broker()
    with redis.Redis.from_url(broker.url) as client:
        client.set("key", "value")
        broker.flush()

        assert client.dbsize() == 0


async def test_a_start_that_fails_shows_the_log_and_leaves_nothing(each_server: ServerBinary) -> None:
    broker = PrivateBroker(each_server, config={"no-such-directive": "1"})
    with pytest.raises(BrokerUnavailable, match=r"(?s)ended with code 1.*no-such-directive"):
        await broker.__aenter__()

    with pytest.raises(BrokerUnavailable, match="closed"):
        _ = broker.folder


def test_a_broker_that_is_not_there_says_so(private_broker: Callable[..., PrivateBroker]) -> None:
    with pytest.raises(BrokerUnavailable, match="was not started"):
        _ = PrivateBroker().url
    broker = private_broker()
    with pytest.raises(BrokerUnavailable, match="runs already"):
        broker.start()
    broker.stop()
    with pytest.raises(BrokerUnavailable, match="does not run"):
        broker.kill()
    broker.close()
    broker.close()


def test_a_killed_owner_leaves_neither_server_nor_folder(each_server: ServerBinary) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(each_server.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pid, folder, child, running = owner.stdout.readline().split()
        assert running == "True", "the end of the starting thread must not end the server"
        owner.kill()
    try:
        wait_until(lambda: not lives(int(pid)), "the server ends")
        wait_until(lambda: not Path(folder).exists(), "the folder is removed")
    finally:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_guard_takes_the_server_along_and_closing_removes_the_folder(
    private_broker: Callable[..., PrivateBroker],
) -> None:
    broker = private_broker()
    pid, folder = broker.pid, broker.folder
    guard = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True
    ).stdout
    os.kill(int(guard), signal.SIGKILL)

    wait_until(lambda: not lives(pid), "the server ends")
    with pytest.raises(BrokerUnavailable, match="guard process is gone"):
        broker.kill()
    broker.close()
    assert not folder.exists()
