"""The scripts of dead letters: one place at every moment, one ledger, and room that ends visibly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from agentbus.broker.answers import Burial
from agentbus.broker.dead_letters import LetterBox, RawLetter, server_ms
from agentbus.broker.inspection.inbox_view import inspect_inbox
from agentbus.dead_letters.letter import read_state
from agentbus.testing import BrokerForTests
from tests.inboxes import WINDOW_MS, InboxBench, bench, ids


@pytest.fixture
async def on(broker: BrokerForTests, unique: Callable[[str], str]) -> AsyncIterator[InboxBench]:
    async with bench(broker.url, f"agent.{unique('letters')}") as opened:
        yield opened


def box_of(on: InboxBench) -> LetterBox:
    return LetterBox(on.broker, "scripts", on.inbox.address)


def text(number: int, **more: object) -> str:
    return json.dumps(
        {"message_id": f"m{number}", "message_type": "task", "body": {"content": number}, **more}
    )


async def buried(on: InboxBench, count: int, reason: str = "exhausted", **option: object) -> list[str]:
    """Publish some messages and bury them; returns the ids of their letters."""
    await on.publish(*(text(number) for number in range(count)), **option)
    letters = []
    for entry in await on.fetch(most=count):
        burial = await on.inbox.bury("c", entry, reason, "boom", '{"error":"boom","attempt":1}', 3)
        assert burial is not None
        letters.append(burial.letter)
    return letters


async def park_rest(on: InboxBench, limit: int, count: int) -> list[Burial]:
    await on.call("HSET", on.keys.policy, "dead_limit", limit)
    await on.publish(*(text(number) for number in range(count)))
    burials = [
        await on.inbox.bury("c", entry, "exhausted", "boom", "", 3) for entry in await on.fetch(most=count)
    ]
    return [burial for burial in burials if burial is not None]


async def make_due(on: InboxBench) -> None:
    for name in await on.call("ZRANGE", on.keys.due, 0, -1):
        await on.call("ZADD", on.keys.due, 1, name)


async def all_letters(on: InboxBench, stream: str = "dead") -> list[RawLetter]:
    return [letter async for letter in box_of(on).walk(stream, newest_first=False)]


async def closes(on: InboxBench) -> bool:
    view = await inspect_inbox(on.broker, "scripts", on.inbox.address)
    return view.ledger.closes


async def test_a_retried_letter_is_a_message_with_a_fresh_budget_in_its_lane(on: InboxBench) -> None:
    (letter,) = await buried(on, 1, lane="low")
    (answer,) = await box_of(on).retry([letter], "ann")
    assert (answer.result, answer.detail.split()[0]) == ("retried", "low")
    (entry,) = await on.fetch()
    state = json.loads(entry.state)
    assert json.loads(entry.message)["message_id"] == "m0"
    assert (state.get("attempt"), state.get("crashes"), state["retries"]) == (None, None, 1)
    assert state["first_failure"]["error"] == "boom"
    assert await on.call("XLEN", on.keys.dead) == 0
    assert await on.ledger("redriven") == 1 and await closes(on)


async def test_a_letter_retried_twice_or_by_two_people_at_once_is_one_message(on: InboxBench) -> None:
    (letter,) = await buried(on, 1)
    box = box_of(on)
    answers = await asyncio.gather(*(box.retry([letter, letter], f"p{number}") for number in range(4)))
    results = [answer.result for batch in answers for answer in batch]
    assert sorted(results) == ["gone"] * 7 + ["retried"]
    assert len(await on.fetch()) == 1 and await closes(on)


async def test_a_retry_ends_before_a_call_has_moved_too_many_bytes_and_goes_on(on: InboxBench) -> None:
    await on.publish(*(text(number, padding="x" * 400_000) for number in range(5)))
    letters = []
    for entry in await on.fetch(most=5, most_bytes=1 << 24):
        burial = await on.inbox.bury("c", entry, "exhausted", "", "", 3)
        assert burial is not None
        letters.append(burial.letter)
    box = box_of(on)
    first = await box._retry_batch(letters, "ann", False, b"")
    assert [answer.result for answer in first] == ["retried"] * 2 + ["later"] * 3
    assert [answer.result for answer in await box.retry(letters[2:], "ann")] == ["retried"] * 3
    assert await closes(on)


async def test_an_expired_letter_that_somebody_retries_is_handed_out(on: InboxBench) -> None:
    (letter,) = await buried(on, 1, ttl=200)
    (raw,) = await all_letters(on)
    expires = read_state(raw)["expires"]
    while await server_ms(on.broker) <= expires:
        await asyncio.sleep(0.01)
    await box_of(on).retry([letter], "ann")
    (entry,) = await on.fetch()
    assert "expires" not in json.loads(entry.state)


async def test_an_entry_that_was_no_message_is_not_retried_but_resolved_or_dropped(on: InboxBench) -> None:
    for _ in range(3):
        await on.call("XADD", on.keys.sources[3], "*", b"\xff odd", b"\x00\xfe")
    await on.inbox.sweep()
    letters = []
    for entry in await on.fetch():
        burial = await on.inbox.bury("c", entry, "malformed", "no message", "", 0)
        assert burial is not None
        letters.append(burial.letter)
    box = box_of(on)
    assert (await box.retry(letters[:1], "ann"))[0].result == "malformed"
    assert await box.resolve(letters[0], "ann", "seen") and await box.drop(letters[1], "ann")
    (kept,) = await all_letters(on, "resolved")
    assert kept.fields["raw:" + b"\xff odd".decode(errors="surrogateescape")] == b"\x00\xfe"
    (answer,) = await box.retry(letters[2:], "ann", replacement=text(9).encode())
    assert answer.result == "retried" and (await on.texts()) == [text(9)]
    assert await closes(on)


async def test_resolving_and_dropping_end_a_letter_once(on: InboxBench) -> None:
    first, second = await buried(on, 2)
    box = box_of(on)
    assert [await box.resolve(first, "ann", "by hand") for _ in range(2)] == [True, False]
    assert [await box.drop(second, "ann") for _ in range(2)] == [True, False]
    assert (await box.retry([first, second], "ann"))[0].result == "gone"
    assert await on.ledger("resolved") == 1 and await on.ledger("discarded") == 1
    (resolved,) = await all_letters(on, "resolved")
    assert (resolved.fields["letter"], resolved.fields["resolution"]) == (first.encode(), b"by hand")
    records = await on.call("XRANGE", on.keys.outcomes, "-", "+")
    named = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in records]
    assert {b"resolved": resolved.entry_id.encode()}.items() <= named[-2].items()
    (ended,) = await on.call("XRANGE", on.keys.ended, "-", "+")
    assert named[-1][b"ended"] == ended[0] and named[-1][b"outcome"] == b"discarded"
    assert await closes(on)


async def test_beyond_the_cap_a_dead_letter_is_parked_and_the_ledger_closes(on: InboxBench) -> None:
    burials = await park_rest(on, 2, 5)
    assert [burial.parked_until_ms is None for burial in burials] == [True, True, False, False, False]
    assert await on.call("XLEN", on.keys.dead) == 2 and await on.call("ZCARD", on.keys.due) == 3
    assert await on.ledger("parked") == 3 and await closes(on)
    # Others go on.
    await on.publish("fresh")
    assert await on.texts() == ["fresh"]


async def test_a_parked_letter_is_no_dead_letter_and_no_message_until_there_is_room(on: InboxBench) -> None:
    await park_rest(on, 2, 3)
    await make_due(on)
    promoted = await on.inbox.promote(WINDOW_MS)
    assert promoted.moved == 0 and not promoted.more
    assert promoted.next_due_ms is not None and promoted.next_due_ms > promoted.server_ms + 500_000
    assert await on.fetch() == []
    box = box_of(on)
    first = (await all_letters(on))[0]
    assert await box.drop(first.entry_id, "ann")
    await make_due(on)
    await on.inbox.promote(WINDOW_MS)
    assert await on.fetch() == [] and await on.call("ZCARD", on.keys.due) == 0
    last = (await all_letters(on))[-1]
    assert json.loads(last.fields["message"])["message_id"] == "m2"
    assert (last.fields["reason"], last.fields["owner"], last.fields["attempts"]) == (
        b"exhausted",
        b"c",
        b"1",
    )
    assert "parked" not in read_state(last)
    assert await on.call("HLEN", on.keys.delayed) == 0 and await closes(on)


async def test_a_parked_entry_that_was_no_message_keeps_its_bytes(on: InboxBench) -> None:
    await park_rest(on, 1, 1)
    await on.call("XADD", on.keys.sources[3], "*", b"\xff", b'\x00\xfe"\\')
    await on.inbox.sweep()
    burial = await on.inbox.bury("c", (await on.fetch())[0], "malformed", "no message", "", 0)
    assert burial is not None and burial.parked_until_ms is not None
    await on.call("HSET", on.keys.policy, "dead_limit", 5)
    await make_due(on)
    await on.inbox.promote(WINDOW_MS)
    letter = (await all_letters(on))[-1]
    assert letter.fields["raw:" + b"\xff".decode(errors="surrogateescape")] == b'\x00\xfe"\\'
    assert await closes(on)


async def test_resolved_letters_make_room_first_unless_an_archive_is_to_have_them(on: InboxBench) -> None:
    await on.call("HSET", on.keys.policy, "dead_limit", 3)
    letters = await buried(on, 3)
    for letter in letters:
        await box_of(on).resolve(letter, "ann", "done")
    await on.call("HSET", on.keys.ledger, "archiving", 1)
    await buried(on, 1)
    assert await on.call("XLEN", on.keys.resolved) == 3
    await on.call("HDEL", on.keys.ledger, "archiving")
    await buried(on, 1)
    assert await on.call("XLEN", on.keys.dead) == 2 and await on.call("XLEN", on.keys.resolved) == 1
    assert await on.call("ZCARD", on.keys.due) == 0 and await closes(on)


async def test_what_killed_its_owners_is_parked_too_and_its_asker_is_told(on: InboxBench) -> None:
    await park_rest(on, 1, 1)
    await on.call("XADD", on.keys.sources[3], "*", "message", text(7), "state", '{"crashes":2}')
    await on.inbox.sweep()
    (entry,) = await on.fetch()
    await on.inbox.mark_started("c", entry)
    step = await on.inbox.reclaim("c", (await on.inbox.beats())["c"])
    assert step is not None and step.parked == 1
    assert [json.loads(dead)["message_id"] for dead in step.dead] == ["m7"]
    assert await on.call("ZCARD", on.keys.due) == 1 and await closes(on)


async def test_a_wrong_key_keeps_no_burial_from_happening(on: InboxBench) -> None:
    await on.call("SET", on.keys.resolved, "somebody's")
    assert len(await buried(on, 2)) == 2
    assert await on.inbox.settle("c", "processed", ids(await on.fetch())) == 0
