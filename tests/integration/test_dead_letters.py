"""``bus.dead_letters``: finding, retrying, editing, resolving and dropping, with a ledger that closes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentbus import (
    Agent,
    BulkRetry,
    Bus,
    BusSettings,
    DeadLetterError,
    DeadLetterFilter,
    DeadLetterResolved,
    InvalidValue,
    NoSuchDeadLetter,
    Policy,
    QueueFull,
    Reject,
    Retry,
)
from agentbus.broker.keys import inbox_keys
from agentbus.testing import BrokerForTests
from tests.agents.waiting import eventually
from tests.letters import bury_all, make_dead
from tests.service import working
from workers.due import Due


@pytest.fixture
async def bus(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[Bus]:
    settings = BusSettings(prefix=unique("p"))
    async with Bus(broker.url, agent="planner", settings=settings) as opened:
        yield opened
        keys = await opened.rooms.broker.execute("KEYS", f"{settings.prefix}:*")
        if keys:
            await opened.rooms.broker.execute("UNLINK", *keys)


async def closes(bus: Bus, name: str) -> bool:
    return (await bus.inspect(name)).ledger.closes


async def contents(bus: Bus, name: str, count: int) -> list[object]:
    """Take so many messages as an agent does."""
    found = []
    async with bus.pulling(name) as puller:
        for _ in range(count):
            delivery = await puller.next("5s")
            assert delivery is not None
            async with delivery:
                found.append(delivery.message.content)
    return found


# --- looking ---


async def test_a_letter_tells_everything_about_how_it_died(bus: Bus) -> None:
    agent, runs = Agent("r"), []

    @agent.on("task", retry=Retry(max_retries=2, retry_delay=0, shortest_delay=0))
    async def handle() -> None:
        runs.append(1)
        raise RuntimeError(f"run {len(runs)}")

    async with bus.serving(agent):
        stored = await bus.publish("agent.r.task", {"n": 1}, session_id="s1", correlation_id="c1")
        await eventually(lambda: bus.dead_letters.list("r"))
    (letter,) = await bus.dead_letters.list("r")
    assert (letter.message_id, letter.type, letter.sender, letter.session_id) == (
        stored.message_id, "task", "planner", "s1",
    )  # fmt: skip
    assert (letter.reason, letter.retry_count, letter.attempts, letter.max_retries) == ("exhausted", 2, 3, 2)
    assert letter.first_failure is not None and letter.last_failure is not None
    assert ("run 1" in letter.first_failure["error"], "run 3" in letter.last_failure["error"]) == (True, True)
    assert letter.owner is not None and letter.owner.startswith("r.")
    assert letter.died_at is not None and abs(letter.died_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert letter.status == "dead" and letter.envelope is not None
    assert letter.envelope["body"] == {"content": {"n": 1}}
    assert (await bus.dead_letters.get(letter.id)) == letter
    assert json.loads(json.dumps(letter.to_record()))["id"] == letter.id


async def test_a_rejected_letter_shows_the_budget_it_did_not_need_and_others_show_none(bus: Bus) -> None:
    agent = Agent("r")

    @agent.on("task", retry=Retry(max_retries=2))
    async def handle() -> None:
        raise Reject("never")

    async with bus.serving(agent):
        await bus.publish("agent.r.task", 1)
        await bus.publish("agent.r.unknown", 1)
        await bus.rooms.broker.execute(
            "XADD", inbox_keys(bus.settings.prefix, "agent.r").priority_lanes[2], "*", "no", "message"
        )
        await eventually(lambda: _count(bus, 3))
    budgets = {letter.reason: letter.max_retries for letter in await bus.dead_letters.list("r")}
    assert budgets == {"rejected": 2, "no_handler": None, "malformed": None}


async def _count(bus: Bus, wanted: int) -> bool:
    return len(await bus.dead_letters.list("r")) == wanted


async def test_a_list_comes_in_pages_that_miss_and_repeat_nothing(bus: Bus) -> None:
    letters = [id for name in ("a", "b") for id in await make_dead(bus, name, *range(7))]
    found, after = [], None
    while True:
        page = await bus.dead_letters.list(limit=3, after=after)
        found += [letter.id for letter in page]
        after = page.next
        if after is None:
            break
    assert sorted(found) == sorted(letters) and len(set(found)) == 14
    assert found[:7] == letters[:7][::-1], "newest first"
    assert len(await bus.dead_letters.list()) == 14
    assert (await bus.dead_letters.list(limit=14)).next is None


async def test_filters_narrow_a_list(bus: Bus) -> None:
    await make_dead(bus, "a", 1, reason="rejected")
    await make_dead(bus, "a", 2, type="review")
    await make_dead(bus, "b", 3)

    async def found(**where: object) -> list[object]:
        page = await bus.dead_letters.list(**where)  # type: ignore[arg-type]
        return [letter.message.content for letter in page if letter.message is not None]

    assert await found(reason="rejected") == [1]
    assert await found(type="review") == [2]
    assert await found(address="b") == [3] and await found(address="agent.b") == [3]
    assert await found(sender="planner", since="1h") == [2, 1, 3] and await found(sender="nobody") == []
    assert await found(until="1h") == [] and await found(until=datetime.now(UTC) + timedelta(hours=1))


async def test_messages_that_wait_for_their_retry_are_listed_with_its_time(bus: Bus) -> None:
    agent = Agent("r")

    @agent.on("task", retry=Retry(retry_delay="10m", shortest_delay="1m"))
    async def handle() -> None:
        raise RuntimeError("not yet")

    await bus.publish("agent.r.later", 1, delay="1h")
    async with bus.serving(agent):
        await bus.publish("agent.r.task", 1)
        await eventually(lambda: bus.dead_letters.list(status="retrying"))
    (letter,) = await bus.dead_letters.list(status="retrying")
    assert letter.next_retry_at is not None and letter.next_retry_at > datetime.now(UTC)
    assert (letter.status, letter.attempts, letter.died_at) == ("retrying", 1, None)
    assert "not yet" in letter.detail
    assert (await bus.dead_letters.get(letter.id)).id == letter.id
    with pytest.raises(NoSuchDeadLetter, match="tried again by itself"):
        await bus.dead_letters.retry(letter.id)


async def test_what_found_no_room_is_listed_as_parked_and_says_so(bus: Bus) -> None:
    await bus.declare("agent.r", Policy(dead_limit=2))
    assert (await make_dead(bus, "r", 1, 2, 3)).count("") == 1
    (letter,) = await bus.dead_letters.list(status="parked")
    assert letter.message is not None and letter.message.content == 3
    assert (letter.reason, letter.attempts, letter.next_retry_at is None) == ("exhausted", 1, False)
    with pytest.raises(NoSuchDeadLetter, match="waits for room"):
        await bus.dead_letters.drop(letter.id)
    assert await closes(bus, "r")


async def test_parked_letters_take_room_so_that_publishers_hear_of_an_address_that_fails(bus: Bus) -> None:
    await bus.declare("agent.r", Policy(limit=3, dead_limit=1))
    assert [bool(id) for id in await make_dead(bus, "r", 1, 2, 3)] == [True, False, False]
    await bus.publish("agent.r.task", 4)
    with pytest.raises(QueueFull):
        await bus.publish("agent.r.task", 5)
    # One that was parked takes its place among the dead, which take none.
    await bus.dead_letters.drop((await bus.dead_letters.list("r"))[0].id)
    keys = inbox_keys(bus.settings.prefix, "agent.r")
    for name in await bus.rooms.broker.execute("ZRANGE", keys.due, 0, -1):
        await bus.rooms.broker.execute("ZADD", keys.due, 1, name)
    async with working(bus, Due):
        await eventually(lambda: _count(bus, 1))
    await bus.publish("agent.r.task", 5)
    assert await closes(bus, "r")


async def test_the_limit_is_seen_by_whoever_serves(bus: Bus) -> None:
    await bus.declare("agent.r", Policy(dead_limit=1))
    agent = Agent("r")

    @agent.on("task")
    async def handle(number: int) -> None:
        if number < 3:
            raise Reject("no")
        done.set()

    done = asyncio.Event()
    async with bus.serving(agent):
        for number in range(4):
            await bus.publish("agent.r.task", number)
        await asyncio.wait_for(done.wait(), 5)
        await eventually(lambda: bus.events.counts["dead_letters_full"] == 2)
    assert await closes(bus, "r")


# --- handing out again ---


async def test_a_retried_letter_is_handled_and_cannot_be_retried_again(bus: Bus) -> None:
    (id,) = await make_dead(bus, "r", "again")
    await bus.dead_letters.retry(id)
    with pytest.raises(DeadLetterResolved, match=r"was retried .* by planner") as caught:
        await bus.dead_letters.retry(id)
    assert caught.value.outcome == "retried"
    for verb in (bus.dead_letters.get(id), bus.dead_letters.drop(id), bus.dead_letters.edit(id, 1)):
        with pytest.raises(DeadLetterResolved):
            await verb
    assert await contents(bus, "r", 1) == ["again"]
    assert await closes(bus, "r")


async def test_two_people_who_retry_at_once_make_one_message(bus: Bus) -> None:
    ids = await make_dead(bus, "r", *range(20))
    answers = await asyncio.gather(
        *(bus.dead_letters.retry(id) for id in ids for _ in range(2)), return_exceptions=True
    )
    assert sum(isinstance(answer, DeadLetterResolved) for answer in answers) == 20
    view = await bus.inspect("r")
    assert (view.waiting, view.dead, view.ledger.closes) == (20, 0, True)


async def test_a_letter_that_dies_again_counts_how_often_it_was_handed_out(bus: Bus) -> None:
    (id,) = await make_dead(bus, "r", 1)
    await bus.dead_letters.retry(id)
    (again,) = await bury_all(bus, "r", 1)
    letter = await bus.dead_letters.get(again)
    assert (letter.retries, letter.attempts) == (1, 1) and again != id


async def test_an_edited_letter_is_the_same_message_with_another_body(bus: Bus) -> None:
    (id,) = await make_dead(bus, "r", {"pr": 0}, correlation_id="c1", metadata={"m": 1})
    before = (await bus.dead_letters.get(id)).message_id
    await bus.dead_letters.edit(id, {"pr": 7})
    async with bus.pulling("r") as puller:
        delivery = await puller.next("5s")
        assert delivery is not None
        async with delivery:
            message = delivery.message
    assert (message.content, message.message_id, message.correlation_id) == ({"pr": 7}, before, "c1")
    assert message.metadata == {"m": 1} and await closes(bus, "r")


async def test_a_malformed_letter_is_shown_edited_resolved_and_dropped_but_not_retried(bus: Bus) -> None:
    key = f"{bus.settings.prefix}:{{agent.r}}:lane:normal"
    await make_dead(bus, "r", "first")
    for fields in (("note", b"\x00\xff"), ("message", "{nonsense"), ("a", "1"), ("a", "2")):
        await bus.rooms.broker.execute("XADD", key, "*", *fields)
    odd, text, third, fourth = await bury_all(bus, "r", 4, "malformed")
    assert (await bus.dead_letters.get(odd)).raw == {"note": b"\x00\xff"}
    assert (await bus.dead_letters.get(text)).raw == {"message": b"{nonsense"}
    for id in (odd, text):
        with pytest.raises(DeadLetterError, match="no valid message"):
            await bus.dead_letters.retry(id)
    with pytest.raises(InvalidValue, match="type"):
        await bus.dead_letters.edit(odd, {"mended": 1})
    await bus.dead_letters.edit(odd, {"mended": 1}, type="task")
    await bus.dead_letters.resolve(third, "nobody knows what it was")
    await bus.dead_letters.drop(fourth)
    assert await contents(bus, "r", 1) == [{"mended": 1}]
    await bus.rooms.broker.execute("XADD", key, "*", "a", "3")
    await bury_all(bus, "r", 1, "malformed")
    done = await bus.dead_letters.retry_all(DeadLetterFilter("r"))
    assert (done.malformed, done.retried) == (1, 2) and await closes(bus, "r")


# --- many ---


async def test_all_that_match_are_retried_oldest_first_with_progress(bus: Bus) -> None:
    await make_dead(bus, "a", *range(250))
    await make_dead(bus, "b", *range(250, 300))
    await make_dead(bus, "b", "other", reason="rejected")
    told: list[BulkRetry] = []
    done = await bus.dead_letters.retry_all(DeadLetterFilter(reason="exhausted"), progress=told.append)
    assert (done.retried, done.matched, done.complete) == (300, 300, True)
    assert [each.retried for each in told] == [100, 200, 250, 300]
    assert [letter.reason for letter in await bus.dead_letters.list()] == ["rejected"]
    assert await contents(bus, "a", 250) == list(range(250))
    assert await closes(bus, "a") and await closes(bus, "b")


async def test_what_dies_again_meanwhile_is_left_alone(bus: Bus) -> None:
    await make_dead(bus, "r", *range(150))
    died = False

    def die_again(done: BulkRetry) -> None:
        nonlocal died
        died = True

    retrying = asyncio.create_task(bus.dead_letters.retry_all(DeadLetterFilter("r"), 400, progress=die_again))
    await eventually(lambda: died)
    await bury_all(bus, "r", 10)
    assert (await retrying).retried == 150
    assert len(await bus.dead_letters.list("r")) == 10 and await closes(bus, "r")


async def test_a_rate_is_kept_and_a_stop_says_how_far_it_came(bus: Bus) -> None:
    await make_dead(bus, "r", *range(200))
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    begun = loop.time()

    def watch(done: BulkRetry) -> None:
        if done.retried >= 60:
            stop.set()

    done = await bus.dead_letters.retry_all(DeadLetterFilter("r"), 200, progress=watch, stop=stop)
    assert loop.time() - begun >= 0.24, "sixty at two hundred a second"
    assert (done.retried, done.complete) == (60, False)
    assert len(await bus.dead_letters.list("r", limit=1000)) == 140 and await closes(bus, "r")


async def test_letters_with_ids_of_the_future_are_retried_too(bus: Bus) -> None:
    """Where the server's clock was set back, ids run ahead of it."""
    (id,) = await make_dead(bus, "r", 1)
    call, dead = bus.rooms.broker.execute, inbox_keys(bus.settings.prefix, "agent.r").dead
    ((entry, fields),) = await call("XRANGE", dead, "-", "+")
    await call("XADD", dead, f"{int(entry.split(b'-')[0]) + 3_600_000}-0", *fields)
    await call("XDEL", dead, entry)
    assert id not in {letter.id for letter in await bus.dead_letters.list("r")}
    assert (await bus.dead_letters.retry_all(DeadLetterFilter("r", since="1h"))).retried == 1


async def test_a_stop_ends_a_search_that_finds_nothing(bus: Bus) -> None:
    await make_dead(bus, "r", 1, 2)
    stop = asyncio.Event()
    stop.set()
    done = await bus.dead_letters.retry_all(DeadLetterFilter("r", type="other"), stop=stop)
    assert (done.matched, done.complete) == (0, False)


async def test_what_a_pause_cost_is_not_made_up_for_in_a_burst(bus: Bus) -> None:
    """A server that stood still for seconds is to be spared, not flooded."""
    await make_dead(bus, "r", *range(60))
    loop, moments = asyncio.get_running_loop(), []

    def stall_once(done: BulkRetry) -> None:
        if not moments:
            time.sleep(1.6)
        moments.append(loop.time())

    await bus.dead_letters.retry_all(DeadLetterFilter("r"), 40, progress=stall_once)
    assert moments[-1] - moments[0] >= 0.3, "sixty at forty a second, one second of them made up for"


# --- ending ---


async def test_resolved_letters_can_be_looked_at_with_who_and_why(bus: Bus) -> None:
    first, second = await make_dead(bus, "r", 1, 2)
    await bus.dead_letters.resolve(first, "reviewed by hand")
    await bus.dead_letters.drop(second)
    (letter,) = await bus.dead_letters.list(status="resolved")
    assert (letter.id, letter.resolution, letter.resolved_by) == (first, "reviewed by hand", "planner")
    assert letter.resolved_at is not None and (await bus.dead_letters.get(first)).status == "resolved"
    with pytest.raises(DeadLetterResolved, match="reviewed by hand"):
        await bus.dead_letters.retry(first)
    with pytest.raises(DeadLetterResolved) as caught:
        await bus.dead_letters.resolve(second, "late")
    assert caught.value.outcome == "dropped"
    ended = (await bus.inspect("r")).ledger
    assert (ended.ended["resolved"], ended.ended["discarded"], ended.closes) == (1, 1, True)


# --- what cannot be ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "alive"), ("limit", 0), ("limit", True and 5000), ("after", "x"), ("address", "channel.x"),
        ("type", "no type"), ("sender", "No One"), ("since", "yesterday"), ("until", "2026-01-01T00:00:00"),
        ("reason", ""), ("colour", "red"),
    ],
)  # fmt: skip
async def test_a_filter_that_cannot_work_is_named(bus: Bus, field: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        await bus.dead_letters.list(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize(
    "id",
    [
        "",
        "x",
        "agent.r",
        "agent.r:",
        "agent.r:1",
        "Agent.r:1-1",
        "channel.c:1-1",
        5,
        f"agent.r:{2**64}-0",
        "agent.r:\u0661-\u0660",
        "agent.r:due:",
    ],
)
async def test_an_id_that_is_none_is_named_and_nothing_happens(bus: Bus, id: str) -> None:
    for verb in (bus.dead_letters.get, bus.dead_letters.retry, bus.dead_letters.drop):
        with pytest.raises(InvalidValue, match=r"^id: "):
            await verb(id)


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("dead", "agent.r|1-x"),
        ("dead", "agent.r|5 name"),
        ("retrying", "agent.r|5-0"),
        ("parked", "agent.r|² x"),
    ],
)
async def test_a_cursor_of_another_list_is_none(bus: Bus, status: Any, after: str) -> None:
    with pytest.raises(InvalidValue, match=f"^after: .* is no cursor of {status} letters"):
        await bus.dead_letters.list(status=status, after=after)


async def test_an_id_is_the_same_with_zeros_before_it(bus: Bus) -> None:
    (id,) = await make_dead(bus, "r", 1)
    address, _, entry = id.partition(":")
    padded = f"{address}:000{entry}"
    assert (await bus.dead_letters.get(padded)).id == id
    await bus.dead_letters.retry(padded)
    with pytest.raises(DeadLetterResolved, match="was retried"):
        await bus.dead_letters.retry(id)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), True, "5"])
async def test_a_rate_that_is_none_is_named(bus: Bus, rate: Any) -> None:
    (id,) = await make_dead(bus, "r", 1)
    with pytest.raises(InvalidValue, match=r"^rate: "):
        await bus.dead_letters.retry_all(DeadLetterFilter("r"), rate)
    assert (await bus.dead_letters.get(id)).status == "dead"


async def test_what_matches_nothing_says_so(bus: Bus) -> None:
    await make_dead(bus, "r", 1)
    with pytest.raises(NoSuchDeadLetter, match="sender nobody"):
        await bus.dead_letters.retry_all(DeadLetterFilter(sender="nobody"))
    with pytest.raises(NoSuchDeadLetter, match="there is no dead letter"):
        await bus.dead_letters.retry("agent.r:1-1")
    with pytest.raises(InvalidValue, match="rate"):
        await bus.dead_letters.retry_all(DeadLetterFilter("r"), 0)
    with pytest.raises(InvalidValue, match="status"):
        await bus.dead_letters.retry_all(DeadLetterFilter("r", status="resolved"))
    with pytest.raises(InvalidValue, match="note"):
        await bus.dead_letters.resolve("agent.r:1-1", " ")
    assert len(await bus.dead_letters.list("r")) == 1
