"""What each level of durability means on each server, and that no level is claimed that was not reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentbus.broker.durability import probe
from agentbus.broker.embedded import PrivateBroker, ServerBinary
from agentbus.errors import DurabilityUnavailable, PublishTimeout
from agentbus.testing import BrokerForTests
from tests.publishing import look_at, open_office, wait_until

Unique = Callable[[str], str]
Start = Callable[..., PrivateBroker]


async def test_waitaof_probe_on_every_server_of_the_matrix(
    private_broker: Start, each_server: ServerBinary
) -> None:
    """Each server is believed only as far as it proved: redis before 7.2 has no WAITAOF; Valkey 9.1 has
    one that answers before any sync; Redis since 7.4 waits."""
    everysec, always, memory = (
        private_broker(each_server),
        private_broker(each_server, appendfsync="always"),
        private_broker(each_server, appendonly=False),
    )
    found = []
    for server in (everysec, always, memory):
        async with open_office(server.url) as office:
            found.append(await probe(office.broker, "agentbus"))

    numbers = tuple(int(number) for number in each_server.version.split(".")[:2])
    if each_server.kind == "redis":
        assert found[0].honest_waitaof is (numbers >= (7, 4))
    elif numbers <= (9, 1):
        assert found[0].honest_waitaof is False
    assert (found[0].appendonly, found[0].appendfsync) == (True, "everysec")
    assert found[0].disk is found[0].honest_waitaof
    assert (found[1].appendfsync, found[1].disk) == ("always", True)
    assert (found[2].appendonly, found[2].disk) == (False, False)


async def test_with_appendfsync_always_disk_is_reached_at_once(
    private_broker: Start, each_server: ServerBinary, unique: Unique
) -> None:
    server = private_broker(each_server, appendfsync="always")
    topic = f"agent.{unique('always')}.task"
    async with open_office(server.url) as office:
        begun = time.monotonic()
        for options in ({"durability": "disk"}, {"priority": "critical"}, {"priority": "high"}):
            assert (await office.publisher.publish(topic, 1, **options)).durability == "disk"
        assert (await office.publisher.publish(topic, 1)).durability == "stream"
        assert time.monotonic() - begun < 1.0
        assert not office.heard


async def test_a_default_that_cannot_be_had_degrades_with_one_warning(
    private_broker: Start, unique: Unique
) -> None:
    server = private_broker(appendonly=False)
    topic = f"agent.{unique('degrade')}.task"
    async with open_office(server.url) as office:
        for priority in ("critical", "high", "critical"):
            stored = await office.publisher.publish(topic, 1, priority=priority)  # type: ignore[arg-type]
            assert stored.durability == "stream"

        [event] = office.said("durability_degraded")
        assert "appendonly no" in event.detail


@pytest.mark.parametrize("level", ["disk", "replicated"])
async def test_an_explicit_level_that_cannot_be_had_is_an_error_before_sending(
    private_broker: Start, unique: Unique, level: Any
) -> None:
    server = private_broker(appendonly=False)
    address = f"agent.{unique('explicit')}"
    async with open_office(server.url) as office, look_at(server.url, address) as eyes:
        with pytest.raises(DurabilityUnavailable, match="durability"):
            await office.publisher.publish(f"{address}.task", 1, durability=level)
        with pytest.raises(DurabilityUnavailable):
            await office.publisher.publish_many(f"{address}.task", [1, 2], durability=level)
        assert await eyes.bodies() == []


async def test_an_explicit_level_waits_for_a_server_that_is_away_until_the_deadline(
    private_broker: Start, unique: Unique
) -> None:
    server = private_broker(appendfsync="always")
    server.kill()
    topic = f"agent.{unique('away')}.task"
    async with open_office(server.url) as office:
        begun = time.monotonic()
        with pytest.raises(PublishTimeout) as raised:
            await office.publisher.publish(topic, 1, durability="disk", deadline="300ms")
        assert not raised.value.uncertain
        assert 0.25 < time.monotonic() - begun < 1.5

        sending = asyncio.create_task(office.publisher.publish(topic, 1, durability="disk"))
        server.start()
        assert (await sending).durability == "disk"


async def test_a_policy_that_asks_for_replicas_on_a_server_without_any_is_answered_at_once(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('policy')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await eyes.client.hset(eyes.keys.policy, "durability", "replicated")
        async with asyncio.timeout(2):
            assert (await office.publisher.publish(f"{address}.task", 1)).durability == "stream"


async def test_a_policy_written_by_hand_that_means_nothing_leaves_nobody_waiting(
    broker: BrokerForTests, unique: Unique
) -> None:
    address = f"agent.{unique('nonsense')}"
    async with open_office(broker.url) as office, look_at(broker.url, address) as eyes:
        await eyes.client.hset(
            eyes.keys.policy, mapping={"durability": "eternal", "limit": "many", "ttl_ms": "x"}
        )
        async with asyncio.timeout(2):
            assert (await office.publisher.publish(f"{address}.task", 1)).durability == "stream"


async def _replica_of(private_broker: Start, master: PrivateBroker, binary: ServerBinary) -> PrivateBroker:
    """Start a replica; replication needs a port."""
    async with look_at(master.url, "agent.x") as eyes:
        port = int((await eyes.client.config_get("port"))["port"])
        replica = private_broker(binary, config={"replicaof": f"127.0.0.1 {port}"})

        async def online() -> bool:
            return "state=online" in str((await eyes.client.info("replication")).get("slave0", "")) or (
                (await eyes.client.info("replication")).get("slave0", {}).get("state") == "online"
            )

        await wait_until(online, "the replica is online", 20.0)
    return replica


async def test_replicated_counts_every_replica_and_shares_one_wait(
    private_broker: Start, default_server: ServerBinary, unique: Unique, free_port: int
) -> None:
    master = private_broker(
        default_server, config={"port": str(free_port), "repl-diskless-sync-delay": "0", "bind": "127.0.0.1"}
    )
    replica = await _replica_of(private_broker, master, default_server)
    address = f"agent.{unique('replicated')}"
    async with open_office(master.url, deadline=20.0) as office, look_at(master.url, address) as eyes:
        publish = office.publisher.publish
        assert (await publish(f"{address}.task", 1, durability="replicated")).durability == "replicated"

        replica.pause()
        short = await publish(f"{address}.task", 2, durability="replicated", deadline="300ms")
        # Stored, but not confirmed: a value with the entry, or the caller would publish it again.
        assert (short.durability, short.entry_id is not None) == ("stream", True)

        await eyes.client.config_resetstat()
        waiting = []
        for number in range(20):
            waiting.append(
                asyncio.create_task(publish(f"{address}.task", 3 + number, durability="replicated"))
            )
            await wait_until(lambda count=3 + number: _stored(eyes, count), "it is stored")  # type: ignore[misc]
        # The wait for a replica holds up nobody else.
        assert (await publish(f"{address}.task", "plain")).durability == "stream"
        replica.resume()
        assert {(await stored).durability for stored in waiting} == {"replicated"}
        calls = (await eyes.client.info("commandstats"))["cmdstat_wait"]["calls"]
        assert calls <= 3


async def _stored(eyes: Any, count: int) -> bool:
    return bool(await eyes.client.xlen(eyes.keys.sources[3]) >= count)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
