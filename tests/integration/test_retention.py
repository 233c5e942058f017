"""What stays of an address besides its lanes: ended elsewhere, dead letters, channels, chosen outcomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentbus import Bus, BusSettings, Policy, RetentionSettings
from agentbus.broker import keys as key_names
from agentbus.broker.retention import ChannelRetention, InboxRetention
from agentbus.testing import BrokerForTests
from tests.agents.look import Look

Unique = Callable[[str], str]
HOUR_MS = 3_600_000
NODES = 200


class Bench:
    """An inbox in a prefix of its own, and the retention of it."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.look = Look(bus, name)
        self.keys = self.look.keys
        self.call = bus.rooms.broker.execute

    def retention(self, **defaults: Any) -> InboxRetention:
        kept = RetentionSettings(**defaults)
        return InboxRetention(self.bus.rooms.broker, self.look.inbox, kept, self.bus.events)

    def channel(self, address: str, **defaults: Any) -> ChannelRetention:
        broker, prefix = self.bus.rooms.broker, self.bus.settings.prefix
        return ChannelRetention(broker, prefix, address, RetentionSettings(**defaults), self.bus.events)

    async def length(self, key: str) -> int:
        return int(await self.call("XLEN", key))

    async def last(self, key: str) -> str:
        newest = await self.call("XREVRANGE", key, "+", "-", "COUNT", 1)
        return str(newest[0][0].decode())

    async def archived(self, stream: str, entry_id: str) -> None:
        """The archive has committed so much; the first look after that notes where the others end."""
        await self.retention().trim()
        await self.call("HSET", self.keys.archived, stream, entry_id)

    async def fill(self, key: str, count: int, age_ms: int = 0, **fields: str) -> list[str]:
        """Add entries as if that long ago."""
        seconds, micros = await self.call("TIME")
        time = int(seconds) * 1000 + int(micros) // 1000 - age_ms
        flat = [text for pair in (fields or {"message": "{}"}).items() for text in pair]
        ids = [f"{time}-{number}" for number in range(1, count + 1)]
        await self.bus.rooms.broker.pipeline([("XADD", key, each, *flat) for each in ids])
        return ids

    async def end(self, count: int, outcome: str = "processed") -> None:
        await self.bus.publish_many(f"{self.look.inbox.address}.task", range(count))
        while count:
            entries = await self.look.inbox.fetch("reader", min(count, 500), 1 << 24)
            chosen = {entries[0].source: [each.entry_id for each in entries]}
            count -= await self.look.inbox.settle("reader", outcome, chosen)

    async def die(self, count: int) -> None:
        """Publish so many and make each a dead letter."""
        await self.bus.publish_many(f"{self.look.inbox.address}.task", range(count))
        for _ in range(count):
            (entry,) = await self.look.inbox.fetch("reader", 1, 1 << 20)
            await self.look.inbox.bury("reader", entry, "failed", "again and again", '{"error":"x"}', 3)
        await self.next_millisecond()

    async def next_millisecond(self) -> None:
        """Nothing is older than zero milliseconds in the millisecond of its birth."""
        await asyncio.sleep(0.002)


@pytest.fixture
async def on(broker: BrokerForTests, unique: Unique) -> AsyncIterator[Bench]:
    settings = BusSettings(prefix=unique("p"))
    async with Bus(broker.url, agent="tester", settings=settings) as bus:
        bench = Bench(bus, "worker")
        await bench.look.inbox.join("reader")
        yield bench
        found = await bench.call("KEYS", f"{settings.prefix}:*")
        await bench.call("UNLINK", *found)


# --- dead letters ---


async def test_a_dead_letter_nobody_cared_for_is_discarded_when_it_is_too_old(on: Bench) -> None:
    await on.die(3)
    letter = (await on.look.dead())[0]
    await on.retention().trim()
    assert len(await on.look.dead()) == 3
    await on.retention(dead_age=0).trim()
    assert await on.look.dead() == []
    assert await on.look.count("discarded") == 3
    ended = await on.call("XRANGE", on.keys.ended, "-", "+")
    fields = named(ended[0][1])
    assert (fields["outcome"], fields["reason"], fields["died_of"]) == (b"discarded", b"retention", b"failed")
    assert fields["message"] == letter["message"] and fields["state"] == letter["state"]
    record = named((await on.call("XREVRANGE", on.keys.outcomes, "+", "-", "COUNT", 1))[0][1])
    assert record["outcome"] == b"discarded" and record["ended"].split() == [entry[0] for entry in ended]
    await on.look.check_balance()


async def test_a_letter_that_ends_before_it_was_announced_is_announced_all_the_same(on: Bench) -> None:
    await on.die(2)
    letters = await on.call("XRANGE", on.keys.dead, "-", "+")
    await on.retention(dead_age=0).trim()
    kept = [named(fields) for _, fields in await on.call("XRANGE", on.keys.unannounced, "-", "+")]
    assert [each["letter"] for each in kept] == [letter[0] for letter in letters]
    assert kept[0]["reason"] == b"failed"


async def test_a_dead_letter_that_was_no_message_is_discarded_too(on: Bench) -> None:
    fields = [text for number in range(100) for text in (f"f{number}", "v")]
    await on.call("XADD", on.keys.sources[3], "*", *fields)
    await on.look.inbox.sweep()
    (entry,) = await on.look.inbox.fetch("reader", 1, 1 << 20)
    await on.look.inbox.bury("reader", entry, "malformed", "no message", "", 0)
    await on.next_millisecond()
    await on.retention(dead_age=0).trim()
    assert await on.look.dead() == []
    assert named((await on.call("XRANGE", on.keys.ended, "-", "+"))[0][1])["raw:f99"] == b"v"


async def test_dead_letters_stay_where_ended_takes_nothing(on: Bench) -> None:
    await on.die(2)
    await on.call("XADD", on.keys.ended, "18446744073709551615-18446744073709551615", "message", "{}")
    await on.retention(dead_age=0).trim()
    assert len(await on.look.dead()) == 2
    await on.look.check_balance()


async def test_beyond_the_limit_the_oldest_resolved_ones_go_and_no_unresolved_one(on: Bench) -> None:
    await on.die(7)
    resolved = await on.fill(on.keys.resolved, 5, 1000)
    await on.retention(dead=9).trim()
    left = [entry[0].decode() for entry in await on.call("XRANGE", on.keys.resolved, "-", "+")]
    assert left == resolved[3:]
    await on.retention(dead=3).trim()
    assert await on.length(on.keys.resolved) == 0
    assert len(await on.look.dead()) == 7


async def test_resolved_letters_go_by_age_too(on: Bench) -> None:
    await on.fill(on.keys.resolved, 300, HOUR_MS)
    await on.fill(on.keys.resolved, 10)
    await on.retention(dead_age="30m").trim()
    assert await on.length(on.keys.resolved) <= 10 + 100


async def test_the_policy_of_an_address_decides_about_its_dead_letters(on: Bench) -> None:
    await on.die(2)
    await on.bus.declare(on.look.inbox.address, Policy(dead_age=0))
    await on.retention().trim()
    assert await on.look.dead() == []


# --- what ended outside of the lanes, and channels ---


async def test_what_ended_elsewhere_is_history_like_any_other(on: Bench) -> None:
    await on.fill(on.keys.ended, 1000, HOUR_MS, message="{}", outcome="expired")
    await on.retention(messages=300).trim()
    assert 300 <= await on.length(on.keys.ended) <= 300 + NODES
    await on.retention(age="30m").trim()
    assert await on.length(on.keys.ended) <= NODES


async def test_a_channel_keeps_so_many_messages_for_so_long_and_in_so_many_bytes(on: Bench) -> None:
    address = "channel.design"
    log = key_names.channel_keys(on.bus.settings.prefix, address).log
    await on.fill(log, 3000, HOUR_MS, message="x" * 500)
    await on.channel(address).trim()
    assert await on.length(log) == 3000
    await on.channel(address, channel_messages=1000).trim()
    assert 1000 <= await on.length(log) <= 1000 + NODES
    await on.channel(address, bytes=200_000).trim()
    assert int(await on.call("MEMORY", "USAGE", log, "SAMPLES", 0)) < 300_000
    await on.fill(log, 5)
    await on.channel(address, age="30m").trim()
    assert 5 <= await on.length(log) <= 5 + 100


async def test_a_reader_of_a_channel_does_not_hold_it_back(on: Bench) -> None:
    address = "channel.design"
    log = key_names.channel_keys(on.bus.settings.prefix, address).log
    await on.call("XGROUP", "CREATE", log, "late", "0", "MKSTREAM")
    await on.fill(log, 1000)
    await on.channel(address, channel_messages=0).trim()
    assert await on.length(log) <= 100


async def test_a_channel_has_a_policy_as_an_inbox_has(on: Bench) -> None:
    address = "channel.design"
    keys = key_names.channel_keys(on.bus.settings.prefix, address)
    await on.fill(keys.log, 1000)
    await on.call("HSET", keys.policy, "history_messages", 200)
    await on.channel(address).trim()
    assert 200 <= await on.length(keys.log) <= 200 + NODES


# --- what the archive has not committed ---


async def test_nothing_goes_that_the_archive_has_not_committed(on: Bench) -> None:
    await on.call("HSET", key_names.archive(on.bus.settings.prefix), "on", 1)
    await on.die(300)
    retention = on.retention(messages=0, dead=0, dead_age=0)
    await on.fill(on.keys.resolved, 300)
    for _ in range(3):
        await retention.trim()
    assert (await on.length(on.keys.ended), await on.length(on.keys.resolved)) == (300, 300)
    # The archive comes to the end of the outcomes; more ends meanwhile, which is not committed yet.
    await on.archived("outcomes", await on.last(on.keys.outcomes))
    await on.die(200)
    await on.fill(on.keys.resolved, 7)
    for _ in range(3):
        await retention.trim()
    assert 200 <= await on.length(on.keys.ended) <= 200 + 100
    assert await on.length(on.keys.resolved) == 7


async def test_an_address_that_may_lose_does_not_wait_for_the_archive(on: Bench) -> None:
    await on.call("HSET", key_names.archive(on.bus.settings.prefix), "on", 1)
    await on.bus.declare(on.look.inbox.address, Policy(archive="may_lose", dead_age=0, history_messages=0))
    await on.die(300)
    await on.retention().trim()
    assert await on.length(on.keys.ended) <= 100


async def test_a_channel_waits_for_the_archive(on: Bench) -> None:
    address = "channel.design"
    keys = key_names.channel_keys(on.bus.settings.prefix, address)
    await on.call("HSET", key_names.archive(on.bus.settings.prefix), "on", 1)
    ids = await on.fill(keys.log, 1000)
    await on.channel(address, channel_messages=0, age=0).trim()
    assert await on.length(keys.log) == 1000
    await on.call("HSET", keys.archived, "log", ids[499])
    await on.channel(address, channel_messages=0, age=0).trim()
    assert 500 <= await on.length(keys.log) <= 600


async def test_the_log_of_the_status_is_small_and_waits_for_no_archive(on: Bench) -> None:
    address = "system.bus"
    keys = key_names.channel_keys(on.bus.settings.prefix, address)
    await on.call("HSET", key_names.archive(on.bus.settings.prefix), "on", 1)
    await on.fill(keys.log, 400, message="x" * 1000)
    await on.channel(address, status_bytes=50_000, channel_messages=0).trim()
    assert int(await on.call("MEMORY", "USAGE", keys.log, "SAMPLES", 0)) < 70_000
    await on.fill(keys.log, 1000)
    await on.channel(address, status_messages=100, channel_messages=0).trim()
    assert 100 <= await on.length(keys.log) <= 100 + NODES
    await on.bus.declare(address, Policy(archive="required"))
    await on.channel(address, status_messages=0).trim()
    assert await on.length(keys.log) >= 100


# --- by outcome ---


async def test_history_of_outcomes_that_nobody_wants_goes_and_the_rest_stays(on: Bench) -> None:
    await on.bus.declare(on.look.inbox.address, Policy(history_outcomes=("expired", "discarded")))
    await on.end(700)
    await on.end(30, "discarded")
    await on.end(500)
    waiting = await on.bus.publish_many(f"{on.look.inbox.address}.task", range(20))
    held = await on.look.inbox.fetch("reader", 5, 1 << 20)
    await on.retention().trim()
    assert (await on.look.lengths())["normal"] == 30 + len(waiting)
    assert len(held) == 5 and await on.look.waiting() == 15
    await on.look.check_balance()


async def test_pruning_goes_on_where_it_was_and_begins_anew_for_another_list(on: Bench) -> None:
    address = on.look.inbox.address
    await on.bus.declare(address, Policy(history_outcomes=("processed",)))
    await on.end(100)
    await on.retention().trim()
    assert (await on.look.lengths())["normal"] == 100
    await on.call("HSET", on.keys.policy, "history_outcomes", "")
    await on.retention().trim()
    assert (await on.look.lengths())["normal"] == 0
    await on.look.check_balance()


async def test_pruning_takes_what_ended_elsewhere_and_resolved_letters(on: Bench) -> None:
    await on.bus.declare(on.look.inbox.address, Policy(history_outcomes=("processed",)))
    for outcome, key in (("expired", on.keys.ended), ("resolved", on.keys.resolved)):
        source = key.rpartition(":")[2]
        gone, kept = await on.fill(key, 2)
        await on.call("XADD", on.keys.outcomes, "*", "consumer", "", "outcome", outcome, source, gone)
        await on.call("XADD", on.keys.outcomes, "*", "consumer", "", "outcome", "processed", source, kept)
    await on.retention().trim()
    assert (await on.length(on.keys.ended), await on.length(on.keys.resolved)) == (1, 1)


async def test_pruning_never_takes_what_is_held_or_waits_whatever_a_record_says(on: Bench) -> None:
    await on.bus.declare(on.look.inbox.address, Policy(history_outcomes=()))
    await on.bus.publish_many(f"{on.look.inbox.address}.task", range(6))
    await on.look.inbox.fetch("reader", 3, 1 << 20)
    ids = [entry[0].decode() for entry in await on.call("XRANGE", on.keys.sources[3], "-", "+")]
    record = ("XADD", on.keys.outcomes, "*", "consumer", "c", "outcome", "processed", "normal")
    await on.call(*record, " ".join(ids))
    await on.call(*record[:-1], "no-such-stream", "x y z", "normal", "words 99999999999999999999-1 -")
    await on.retention().trim()
    assert (await on.look.lengths())["normal"] == 6
    await on.look.check_balance()


async def test_pruning_waits_for_the_archive(on: Bench) -> None:
    await on.call("HSET", key_names.archive(on.bus.settings.prefix), "on", 1)
    await on.bus.declare(on.look.inbox.address, Policy(history_outcomes=()))
    await on.end(100)
    await on.retention().trim()
    assert (await on.look.lengths())["normal"] == 100
    await on.archived("outcomes", await on.last(on.keys.outcomes))
    await on.end(50)
    await on.retention().trim()
    assert (await on.look.lengths())["normal"] == 50


# --- what somebody deleted while it waited ---


async def test_waiting_messages_that_somebody_deleted_are_counted_at_the_second_look(on: Bench) -> None:
    stored = await on.bus.publish_many(f"{on.look.inbox.address}.task", range(10))
    await on.bus.publish(f"{on.look.inbox.address}.task", 1, delay="1h")
    await on.call("XDEL", on.keys.sources[3], stored[2].entry_id, stored[9].entry_id)
    retention = on.retention()
    assert await retention.missing(0) == (2, False)
    assert await retention.missing(1) == (2, False)
    assert await retention.missing(2) == (2, True)
    assert await retention.missing(2) == (0, False)
    assert await on.look.count("vanished") == 2
    await on.look.check_balance()


@pytest.mark.parametrize("cut", ["MAXLEN", "MINID"])
async def test_waiting_messages_that_somebody_trimmed_are_counted(on: Bench, cut: str) -> None:
    stored = await on.bus.publish_many(f"{on.look.inbox.address}.task", range(10))
    await on.call("XTRIM", on.keys.sources[3], cut, "=", 1 if cut == "MAXLEN" else stored[9].entry_id)
    retention = on.retention()
    assert await retention.missing((await retention.missing(0))[0]) == (9, True)
    await on.look.check_balance()


async def test_nothing_is_missing_where_everything_is_somewhere(on: Bench) -> None:
    await on.end(300)
    await on.die(3)
    await on.bus.publish(f"{on.look.inbox.address}.task", 1, delay="1h")
    await on.bus.publish_many(f"{on.look.inbox.address}.task", range(40))
    await on.look.inbox.fetch("reader", 7, 1 << 20)
    await on.call("XADD", on.keys.sources[2], "*", "message", json.dumps({"message_id": "m"}))
    assert await on.retention().missing(0) == (0, False)
    await on.retention(messages=0, age=0, dead_age=0).trim()
    assert await on.retention().missing(0) == (0, False)


async def test_a_lane_deleted_and_made_anew_is_not_taken_for_loss(on: Bench) -> None:
    """Its counters begin anew, so nothing can be said."""
    await on.end(50)
    await on.call("DEL", on.keys.sources[3])
    retention = on.retention()
    assert await retention.missing((await retention.missing(0))[0]) == (0, False)


def named(flat: list[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
