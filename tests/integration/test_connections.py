"""Reaching the broker: URLs, logins, TLS, unsafe servers, links that lie, and finding a server again."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentbus.broker.connection import Broker, ConnectionSettings, Link, map_error
from agentbus.broker.embedded import PrivateBroker, ServerBinary, find_server
from agentbus.bus import Bus
from agentbus.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    NoBroker,
    PublishTimeout,
    UnsafeBroker,
)
from agentbus.send.stored import Stored
from agentbus.settings import BusSettings
from agentbus.testing import BrokerForTests
from tests.proxy import Proxy
from tests.publishing import look_at, open_office, wait_until

Unique = Callable[[str], str]
Start = Callable[..., PrivateBroker]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# --- URLs and logins ---


async def test_unix_and_redis_urls_reach_the_same_server(
    private_broker: Start, free_port: int, unique: Unique
) -> None:
    server = private_broker(config={"port": str(free_port), "bind": "127.0.0.1"})
    topic = f"agent.{unique('urls')}.task"
    for url in (server.url, f"redis://127.0.0.1:{free_port}", f"redis://localhost:{free_port}/0"):
        async with Bus(url) as bus:
            assert isinstance(await bus.publish(topic, url), Stored)
    async with look_at(server.url, topic.rpartition(".")[0]) as eyes:
        assert len(await eyes.bodies()) == 3


async def test_a_login_by_user_and_password(private_broker: Start, unique: Unique) -> None:
    server = private_broker()
    async with look_at(server.url, "agent.x") as eyes:
        await eyes.client.config_set("requirepass", "s3cret/@:")
    address = f"agent.{unique('login')}"
    quoted = "s3cret%2F%40%3A"
    good = server.url.replace("unix://", f"unix://default:{quoted}@")
    async with Bus(good) as bus:
        await bus.publish(f"{address}.task", 1)
    for bad, word in (
        (server.url.replace("unix://", "unix://default:wrong@"), "refused the login"),
        (server.url.replace("unix://", f"unix://nobody:{quoted}@"), "refused the login"),
        (server.url, "refused the login"),
    ):
        with pytest.raises(BrokerRefused, match=word) as raised:
            async with Bus(bad):
                pass
        assert "s3cret" not in str(raised.value)


async def test_a_password_for_a_server_without_one_is_a_clear_error(broker: BrokerForTests) -> None:
    with pytest.raises(BrokerRefused, match=r"(?i)password|auth"):
        async with Bus(broker.url.replace("unix://", "unix://:needless@")):
            pass


async def test_nobody_at_the_address_is_a_clear_error(free_port: int) -> None:
    for url in (f"redis://127.0.0.1:{free_port}", "unix:///nowhere/broker.sock"):
        with pytest.raises(BrokerUnavailable, match="not available"):
            async with Bus(url):
                pass


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "localhost:6379", "redis://[::1", "redis://localhost:port", "redis://h?unheard=of",
     "redis://h?db=x", "unix://"],
)  # fmt: skip
async def test_a_url_that_cannot_work_says_so(url: str) -> None:
    with pytest.raises((ConfigurationError, BrokerUnavailable)) as raised:
        async with Bus(url):
            pass
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["redis://u:s3cret@h:port", "http://:s3cret@h", "redis://h:port?password=s3cret"]
)
async def test_no_password_is_shown_in_errors(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        async with Bus(url):
            pass
    assert "s3cret" not in str(raised.value)
    assert "s3cret" not in repr(ConnectionSettings(url))


async def test_options_in_the_url_do_not_change_the_shape_of_replies(
    broker: BrokerForTests, unique: Unique
) -> None:
    async with Bus(broker.url + "?decode_responses=true&protocol=3&socket_timeout=1") as bus:
        assert (await bus.publish(f"agent.{unique('shape')}.task", 1, key="k")).entry_id


async def test_without_a_url_the_error_shows_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTBUS_URL", raising=False)
    with pytest.raises(NoBroker, match="agentbus up"):
        Bus()


async def test_rediss_with_a_certificate_of_ones_own(
    private_broker: Start, tmp_path: Path, free_port: int, unique: Unique
) -> None:
    try:
        server_binary = find_server("redis-server")
    except NoBroker as reason:
        pytest.skip(f"NOT TESTED, no server that speaks TLS. {reason}")
    _make_certificate(tmp_path)
    server = private_broker(
        server_binary,
        config={
            "tls-port": str(free_port), "tls-cert-file": str(tmp_path / "cert.pem"),
            "tls-key-file": str(tmp_path / "key.pem"), "tls-ca-cert-file": str(tmp_path / "cert.pem"),
            "tls-auth-clients": "no", "bind": "127.0.0.1",
        },
    )  # fmt: skip
    assert server.running
    topic = f"agent.{unique('tls')}.task"
    async with Bus(f"rediss://localhost:{free_port}?ssl_ca_certs={tmp_path / 'cert.pem'}") as bus:
        assert (await bus.publish(topic, 1)).entry_id
    with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
        async with Bus(f"rediss://localhost:{free_port}"):
            pass
    with pytest.raises(BrokerUnavailable):
        async with Bus(f"redis://localhost:{free_port}", settings=BusSettings(command_timeout=1.0)):
            pass


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


# --- servers that are not safe ---


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_evicts_is_refused_unless_allowed(
    private_broker: Start, each_server: ServerBinary, policy: str
) -> None:
    server = private_broker(each_server, config={"maxmemory-policy": policy})
    with pytest.raises(UnsafeBroker, match=rf"{policy}.*noeviction"):
        async with Bus(server.url):
            pass
    async with Bus(server.url, settings=BusSettings(allow_eviction=True)) as bus:
        assert bus.events.counts["unknown_eviction"] == 0


async def test_a_server_that_does_not_say_whether_it_evicts_is_used_with_one_warning(
    private_broker: Start, each_server: ServerBinary, unique: Unique
) -> None:
    server = private_broker(each_server)
    async with look_at(server.url, "agent.x") as eyes:
        for name, denied in (("silent", ("-config", "-info")), ("open", ("-config",))):
            await eyes.client.execute_command(
                "ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all", *denied
            )
    expected = {"silent": 1, "open": 0}
    for name, warnings in expected.items():
        async with Bus(server.url.replace("unix://", f"unix://{name}:pw@")) as bus:
            for number in range(3):
                await bus.publish(f"agent.{unique('silent')}.task", number)
            # INFO tells the policy too, where CONFIG is denied.
            assert bus.events.counts["unknown_eviction"] == warnings


async def test_a_default_level_of_durability_survives_a_login_that_may_ask_nothing(
    private_broker: Start, unique: Unique
) -> None:
    server = private_broker()
    async with look_at(server.url, "agent.x") as eyes:
        await eyes.client.execute_command(
            "ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", "-config", "-info"
        )
    async with Bus(server.url.replace("unix://", "unix://mute:pw@")) as bus:
        stored = await bus.publish(f"agent.{unique('mute')}.task", 1, priority="critical")
        assert stored.durability == "stream"


# --- many at the same moment ---


async def test_what_many_tasks_ask_at_the_same_moment_the_server_reads_in_few_goes(
    private_broker: Start,
) -> None:
    link_broker = Broker(ConnectionSettings(private_broker().url))

    async def ask_all() -> int:
        before = await _reads(link_broker)
        words = [f"word-{number}" for number in range(100)]
        replies = await asyncio.gather(*(link_broker.execute("ECHO", word) for word in words))
        assert [reply.decode() for reply in replies] == words
        return await _reads(link_broker) - before

    # The connections are opened by then.
    await ask_all()
    # A write may reach the server in two pieces, and asking for the number is a read of its own.
    assert await ask_all() <= 6
    await link_broker.close()


async def _reads(link_broker: Broker) -> int:
    lines = (await link_broker.execute("INFO", "stats")).decode().splitlines()
    (found,) = (line for line in lines if line.startswith("total_reads_processed:"))
    return int(found.partition(":")[2])


# --- links that lie ---


async def test_random_cancellations_never_mix_up_replies(broker: BrokerForTests) -> None:
    dice = random.Random(17)
    async with Proxy(broker.url) as proxy:
        link_broker = Broker(ConnectionSettings(proxy.url, command_timeout=5.0, most_links=4))
        await link_broker.execute("PING")
        proxy.delay = 0.05
        answers: list[tuple[str, bytes]] = []

        async def ask(word: str) -> None:
            answers.append((word, await link_broker.execute("ECHO", word)))

        tasks = []
        for number in range(60):
            tasks.append(asyncio.create_task(ask(f"word-{number}")))
            if dice.random() < 0.3:
                # The next ones do not leave together with those so far.
                await asyncio.sleep(dice.uniform(0.0, 0.02))
        loop = asyncio.get_running_loop()
        for task in dice.sample(tasks, 30):
            loop.call_later(dice.uniform(0.0, 0.3), task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        proxy.delay = 0.0
        for number in range(20):
            await ask(f"after-{number}")
        await link_broker.close()

    assert 50 <= len(answers) < 80
    assert all(reply.decode() == word for word, reply in answers)


async def test_a_cancelled_exchange_discards_its_connection(broker: BrokerForTests) -> None:
    async with Proxy(broker.url) as proxy:
        link_broker = Broker(ConnectionSettings(proxy.url))
        link = link_broker.open_link()
        await link.execute("PING")
        proxy.delay = 0.1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await link.execute("ECHO", "lost")
        assert not link.connected
        proxy.delay = 0.0
        assert await link.execute("ECHO", "next") == b"next"
        await link.close()


async def test_a_half_open_link_is_noticed_by_its_own_deadline(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('hole')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, command_timeout=0.3) as office,
        look_at(broker.url, address) as eyes,
    ):
        await office.publisher.publish(f"{address}.task", "before")
        proxy.black_hole = True
        sending = asyncio.create_task(office.publisher.publish(f"{address}.task", "in the hole"))
        seen = proxy.connections
        await wait_until(lambda: proxy.connections > seen, "it dials anew", 3.0)
        proxy.black_hole = False
        assert isinstance(await sending, Stored)
        assert await eyes.bodies() == ["before", "in the hole"]


async def test_one_byte_segments_are_only_slower(broker: BrokerForTests, unique: Unique) -> None:
    address = f"agent.{unique('slices')}"
    async with (
        Proxy(broker.url) as proxy,
        open_office(proxy.url, command_timeout=10.0) as office,
        look_at(broker.url, address) as eyes,
    ):
        await office.publisher.publish(f"{address}.task", "warm")
        proxy.slice = 1
        results = await office.publisher.publish_many(f"{address}.task", list(range(20)), key="k")
        assert isinstance(results[0], Stored)
        await office.publisher.publish_many(f"{address}.task", list(range(20)))
        assert await eyes.bodies() == ["warm", 0, *range(20)]


async def test_a_server_out_of_connections_is_met_with_bounded_back_off(
    private_broker: Start, unique: Unique
) -> None:
    server = private_broker()
    name = unique("clients")
    async with look_at(server.url, "agent.x") as eyes, open_office(server.url) as office:
        # One for whoever looks and one that works: every further one is refused.
        await office.publisher.publish(f"agent.{name}-0.task", "first")
        connected = int((await eyes.client.info("clients"))["connected_clients"])
        await eyes.client.config_set("maxclients", connected)
        before = _open_files()
        rejected = (await eyes.client.info("stats"))["rejected_connections"]
        begun = time.monotonic()
        publish = office.publisher.publish
        results = await asyncio.gather(*(publish(f"agent.{name}-{n}.task", n) for n in range(40)))
        assert len(results) == 40
        # Links that work are taken before new ones are tried.
        for number in range(20):
            await publish(f"agent.{name}-0.task", number)
        passed = time.monotonic() - begun
        refused = (await eyes.client.info("stats"))["rejected_connections"] - rejected
        assert _open_files() - before <= 5
        assert 0 < refused < 40 * (passed + 1) * 11
        assert passed < 15


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked


async def test_attempts_to_reach_a_dead_server_are_spaced_out(private_broker: Start, unique: Unique) -> None:
    server = private_broker()
    async with Proxy(server.url) as proxy, open_office(proxy.url, command_timeout=0.5) as office:
        await office.publisher.publish(f"agent.{unique('spaced')}.task", 0)
        server.kill()
        before = proxy.connections
        with pytest.raises(PublishTimeout):
            await office.publisher.publish(f"agent.{unique('spaced')}.task", 1, deadline="1.5s")
        assert 1 <= proxy.connections - before < 60


@pytest.mark.chaos
async def test_a_broker_that_comes_back_is_found_again_by_every_publisher(
    private_broker: Start, each_server: ServerBinary, unique: Unique
) -> None:
    server = private_broker(each_server)
    topic = f"agent.{unique('back')}.task"
    settings = BusSettings(command_timeout=0.5)
    async with Bus(server.url, settings=settings) as one, Bus(server.url, settings=settings) as two:
        await asyncio.gather(one.publish(topic, 1), two.publish(topic, 1))
        for _ in range(2):
            await asyncio.to_thread(server.kill)
            waiting = [asyncio.create_task(bus.publish(topic, 2)) for bus in (one, two) for _ in range(10)]
            await asyncio.to_thread(server.start)
            begun = time.monotonic()
            await asyncio.gather(*waiting)
            assert time.monotonic() - begun < 5.0
        assert one.events.counts["reconnected"] >= 1


async def test_a_server_that_closes_idle_connections_is_no_outage(
    private_broker: Start, each_server: ServerBinary, unique: Unique
) -> None:
    server = private_broker(each_server)
    name = unique("idle")
    async with Bus(server.url) as bus:
        await bus.publish(f"agent.{name}.task", 1)
        watch = bus.rooms.broker.open_link()
        await watch.execute("CONFIG", "SET", "timeout", 1)
        async with asyncio.timeout(10):
            # Our own question keeps the watching connection alive; the pooled one is closed by the server.
            while len((await watch.execute("CLIENT", "LIST", "TYPE", "normal")).splitlines()) > 1:
                await asyncio.sleep(0.1)
        assert (await bus.inspect(name)).waiting == 1
        await bus.publish(f"agent.{name}.task", 2)
        assert not bus.events.counts
        await watch.close()


# --- errors ---


def test_every_driver_error_becomes_one_of_ours() -> None:
    import redis.exceptions as driver

    for name in dir(driver):
        kind = getattr(driver, name)
        if isinstance(kind, type) and issubclass(kind, driver.RedisError):
            try:
                error = kind("x")
            except (TypeError, ValueError):
                # Errors of a cluster take the place they point at apart.
                error = kind("1 127.0.0.1:1")
            assert isinstance(map_error(error), BrokerError), name


@pytest.mark.parametrize(
    "text",
    ["LOADING Redis is loading", "MISCONF disk", "NOREPLICAS x", "READONLY x", "CLUSTERDOWN x", "TRYAGAIN x",
     "UNBLOCKED x", "MASTERDOWN x", "BUSY Redis is busy"],
)  # fmt: skip
def test_not_now_is_not_no(text: str) -> None:
    import redis.exceptions as driver

    error = map_error(driver.ResponseError(text))
    assert isinstance(error, BrokerUnavailable)
    # The server answered that it did not execute the command.
    assert not error.uncertain


async def test_only_a_command_that_had_left_is_uncertain(broker: BrokerForTests, free_port: int) -> None:
    async with Proxy(broker.url) as proxy:
        link = Broker(ConnectionSettings(proxy.url, command_timeout=0.3)).open_link()
        await link.execute("PING")
        proxy.black_hole = True
        assert await _uncertain(link) is True
        proxy.black_hole = False
        await proxy.hang_up()
        assert await _uncertain(link) is False
        await link.close()


async def _uncertain(link: Link) -> bool:
    with pytest.raises(BrokerUnavailable) as raised:
        await link.execute("PING")
    return raised.value.uncertain


async def test_a_refused_command_in_a_pipeline_leaves_the_others_their_replies(
    broker: BrokerForTests, unique: Unique
) -> None:
    key = f"agentbus:test:{unique('pipe')}"
    link_broker = Broker(ConnectionSettings(broker.url))
    replies: list[Any] = await link_broker.pipeline(
        [("SET", key, "x", "PX", 5000), ("LPUSH", key, "y"), ("GET", key), ("NONSENSE",)]
    )
    assert replies[0] == b"OK"
    assert isinstance(replies[1], BrokerRefused)
    assert replies[2] == b"x"
    assert isinstance(replies[3], BrokerRefused)
    assert await link_broker.execute("ECHO", "still in step") == b"still in step"
    await link_broker.close()
