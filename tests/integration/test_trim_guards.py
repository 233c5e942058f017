"""Retention never takes what is held or waits, in whatever order things ended; on nodes of two entries."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentbus.broker.answers import RawEntry
from agentbus.broker.embedded import PrivateBroker
from tests.inboxes import InboxBench, bench, ids

HOUR_MS = 3_600_000
#: What becomes of each entry of a lane: settled, still held, or (all after the first of these) never read.
fates = st.lists(st.sampled_from(("settled", "settled", "held")), min_size=1, max_size=24)


@pytest.fixture
async def on(private_broker: Callable[..., PrivateBroker]) -> AsyncIterator[InboxBench]:
    server = private_broker(config={"stream-node-max-entries": "2"}, appendonly=False)
    async with bench(server.url, f"agent.t{secrets.token_hex(4)}") as opened:
        yield opened


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    fate=fates, waiting=st.integers(0, 6), keep=st.sampled_from((0, 1, 4)), age=st.sampled_from((0, HOUR_MS))
)
def test_whatever_was_settled_nothing_held_or_waiting_goes(
    small_nodes: str, fate: list[str], waiting: int, keep: int, age: int
) -> None:
    async def history() -> None:
        async with bench(small_nodes, f"agent.t{secrets.token_hex(6)}") as on:
            await on.publish(*["x"] * len(fate))
            taken = await on.fetch()
            if waiting:
                await on.publish(*["w"] * waiting)
            settled = [entry for entry, how in zip(taken, fate, strict=True) if how == "settled"]
            held = [entry for entry, how in zip(taken, fate, strict=True) if how == "held"]
            if settled:
                await on.inbox.settle("c", "processed", ids(settled))
            await asyncio.sleep(0.002 if age == 0 else 0)
            for _ in range(4):
                await on.inbox.trim(keep, age, 1 << 30)
            for entry in held:
                assert await on.inbox.read_entry(entry.source, entry.entry_id) is not None
            assert len(await on.fetch("c")) == waiting
            if held:
                assert await on.inbox.settle("c", "processed", ids(held)) == len(held)

    asyncio.run(history())


@pytest.fixture(scope="module")
def small_nodes(default_server: object) -> object:
    server = PrivateBroker(default_server, config={"stream-node-max-entries": "2"}, appendonly=False)  # type: ignore[arg-type]
    server.start()
    yield server.url
    server.close()


async def test_entries_held_in_the_middle_stay_when_whole_nodes_before_and_behind_them_go(
    on: InboxBench,
) -> None:
    await on.publish(*["x"] * 1000)
    taken = await on.fetch(most=1000)
    held = [entry for number, entry in enumerate(taken) if number in (300, 301, 555, 998)]
    await on.inbox.settle("c", "processed", ids([entry for entry in taken if entry not in held]))
    for _ in range(10):
        await on.inbox.trim(0, HOUR_MS, 1 << 30)
    left = await on.call("XRANGE", on.keys.sources[3], "-", "+")
    assert {entry.entry_id for entry in held} <= {entry[0] for entry in left}
    # Up to two hundred ended ones are not worth a step.
    assert len(left) <= 4 + 200 + 2
    assert await on.inbox.settle("c", "processed", ids(held)) == 4


async def test_ended_ones_behind_a_thousand_that_are_held_in_a_row_go(on: InboxBench) -> None:
    held = await publish_and_take(on, 1000)
    for _ in range(3):
        await on.inbox.settle("c", "processed", ids(await publish_and_take(on, 1000)))
    for _ in range(10):
        await on.inbox.trim(100, HOUR_MS, 1 << 30)
    assert await on.call("XLEN", on.keys.sources[3]) <= 1000 + 100 + 200
    assert await on.inbox.settle("c", "processed", ids(held)) == 1000


async def publish_and_take(on: InboxBench, count: int, body: str = "x") -> list[RawEntry]:
    await on.publish(*[body] * count)
    taken = await on.fetch(most=count)
    assert len(taken) == count
    return taken


async def test_a_waiting_entry_deleted_by_hand_does_not_stop_the_history_from_going(on: InboxBench) -> None:
    """The server then cannot say how many wait, until they are read: nobody may ever read them."""
    await on.inbox.settle("c", "processed", ids(await publish_and_take(on, 600)))
    stored = await on.publish(*["w"] * 10)
    await on.call("XDEL", on.keys.sources[3], stored[4])
    await on.inbox.trim(50, HOUR_MS, 1 << 30)
    assert await on.call("XLEN", on.keys.sources[3]) <= 9 + 50 + 2
    assert len(await on.fetch()) == 9


async def test_streams_that_take_no_more_entries_are_trimmed_all_the_same(on: InboxBench) -> None:
    """Somebody added the largest possible id; see `Inbox.repair`."""
    await on.inbox.settle("c", "processed", ids(await publish_and_take(on, 500)))
    largest = "18446744073709551615-18446744073709551615"
    await on.call("XADD", on.keys.sources[3], largest, "message", "last")
    await on.inbox.trim(10, 0, 1 << 30)
    assert await on.call("XLEN", on.keys.sources[3]) <= 1 + 12
    taken = await on.call(
        "XREADGROUP", "GROUP", "inbox", "c", "COUNT", 10, "STREAMS", on.keys.sources[3], ">"
    )
    assert taken[0][1][0][0] == largest.encode()
    for _ in range(3):
        await on.inbox.trim(0, 0, 1)
    assert await on.inbox.settle("c", "processed", {3: [largest.encode()]}) == 1
    for _ in range(3):
        await on.inbox.trim(0, 0, 1)


async def test_a_group_set_back_by_hand_gets_everything_that_is_still_there(on: InboxBench) -> None:
    """What the group will read again is waiting, although it has ended, or is held, already."""
    taken = await publish_and_take(on, 250)
    await on.inbox.settle("c", "processed", ids(taken))
    await asyncio.sleep(0.005)
    taken += await publish_and_take(on, 50)
    await on.call("XGROUP", "SETID", on.keys.sources[3], "inbox", taken[9].entry_id)
    for _ in range(3):
        await on.inbox.trim(0, 0, 1 << 30)
    left = [entry[0] for entry in await on.call("XRANGE", on.keys.sources[3], "-", "+")]
    assert left[-290:] == [entry.entry_id for entry in taken[10:]]


async def test_memory_goes_down_though_the_oldest_entry_is_held(on: InboxBench) -> None:
    await on.call("CONFIG", "SET", "stream-node-max-entries", 100)
    (held,) = await publish_and_take(on, 1)
    # The scripts themselves take memory too.
    await on.inbox.settle("c", "processed", ids(await publish_and_take(on, 1)))
    await on.inbox.trim(100, HOUR_MS, 1 << 30)
    baseline = await used_memory(on)
    for _ in range(50):
        await on.inbox.settle("c", "processed", ids(await publish_and_take(on, 1000, "x" * 500)))
    full = await used_memory(on)
    more = True
    while more:
        _, more = await on.inbox.trim(100, HOUR_MS, 1 << 30)
    after = await used_memory(on)
    assert (after - baseline) < (full - baseline) / 20, (baseline, full, after)
    assert await on.inbox.read_entry(held.source, held.entry_id) is not None


async def used_memory(on: InboxBench) -> int:
    info = await on.call("INFO", "memory")
    text = info.decode() if isinstance(info, bytes) else str(info)
    return next(int(line.split(":")[1]) for line in text.splitlines() if line.startswith("used_memory:"))
