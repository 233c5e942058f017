"""What is noted of copies that are owed, and what is struck off."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentbus.bindings.errands import Plan
from agentbus.bindings.routes import Copy, Route
from agentbus.message.copies import Arrival, RefusedCopy
from agentbus.message.owed import GRACE_MS, MOST_OWED, DebtNotes, parse_debt, text_of

TEXT = b'{"message_id":"m","from_agent":"sender"}'


def _record(place: str = "high:5-0", text: bytes = TEXT, **option: Any) -> bytes:
    """Return what `owe` of the scripts writes at 1,000 ms."""
    notes = DebtNotes()
    notes.enter("m", "agent.planner.task", 1, option, ["a", "b"])
    return f"1000 {place} {notes.told()['notes'][0]}\n".encode() + text


def test_a_note_says_all_that_the_publisher_knew_of_its_copies() -> None:
    debt = parse_debt("agent.planner", "m", _record(key="sender/ü k", ttl=7, digest="not kept"), 1.5)
    assert debt is not None
    assert debt.agents == ("a", "b")
    assert debt.arrival == Arrival(
        "agent.planner.task", "agent.planner", "m", TEXT, "high", 1.5, "high:5-0", "sender/ü k",
        ttl_ms=7, stored_ms=1000,
    )  # fmt: skip


@pytest.mark.parametrize(("option", "at_ms"), [({"delay": 500}, 1500), ({"at": 900}, 900), ({}, None)])
def test_a_delay_counts_from_when_the_message_was_stored(option: dict[str, int], at_ms: int | None) -> None:
    debt = parse_debt("agent.planner", "m", _record("-", **option), 0)
    assert debt is not None
    assert (debt.arrival.at_ms, debt.arrival.delay_ms, debt.arrival.place) == (at_ms, None, None)


@pytest.mark.parametrize(
    "record", [b"", b"nonsense", b"1 - a {}\n" + TEXT, _record(text=b"{"), b"x " + _record(), b"1 - a []\n{}"]
)
def test_what_somebody_wrote_by_hand_is_no_debt(record: bytes) -> None:
    assert parse_debt("agent.planner", "m", record, 0) is None


def test_the_message_stands_behind_the_first_line() -> None:
    text = orjson.dumps({"body": "two\nlines"})
    assert text_of(_record(text=text)) == text


def test_messages_of_a_batch_share_their_notes() -> None:
    notes = DebtNotes()
    for message_id in ("1", "2"):
        notes.enter(message_id, "agent.planner.task", 2, None, ["a"])
    note = 'a {"topic":"agent.planner.task","priority":"normal"}'
    one = {"ids": ["1", "2"], "notes": [note], "grace": GRACE_MS, "most": MOST_OWED}
    assert notes.told() == one
    notes.skip()
    notes.enter("4", "agent.planner.task", 2, {"key": "s/k"}, ["a"])
    notes.enter("5", "agent.planner.task", 2, None, ["a"])
    told = notes.told()
    assert (told["ids"], told["of"]) == (["1", "2", "", "4", "5"], [1, 1, 1, 2, 1])
    assert told["notes"][1] == 'a {"topic":"agent.planner.task","priority":"normal","key":"s/k"}'


def _plan(arrival: Arrival, *agents: str) -> Plan:
    plan = Plan()
    plan.add(arrival, Route(tuple(Copy(agent, "agent.*.task", True) for agent in agents), ()))
    return plan


def _arrival(text: bytes = TEXT, **fields: Any) -> Arrival:
    return Arrival("agent.planner.task", "agent.planner", "m", text, "normal", 1.0, **fields)


def test_what_was_made_or_refused_for_good_is_struck_and_what_nobody_confirmed_stays() -> None:
    plan = _plan(_arrival(), "a", "b", "c")
    made, refused, late = plan.errands[0]
    refused.refusal = RefusedCopy("b", "refused", "")
    late.overdue()
    assert plan.struck() == {"agent.planner": [("m", ["a", "b"])]}
    late.refusal = None
    assert plan.struck() == {"agent.planner": [("m", [])]}
    for errand in (made, refused, late):
        errand.overdue()
    assert plan.struck() == {}


def test_what_is_never_copied_is_struck_at_once() -> None:
    direct = b'{"message_id":"m","recipients":["planner"]}'
    for plan in (_plan(_arrival(direct), "a"), _plan(_arrival(), "sender")):
        assert plan.struck() == {"agent.planner": [("m", [])]}
    assert _plan(_arrival()).struck() == {}


def test_a_key_that_is_used_again_strikes_what_was_noted_the_first_time() -> None:
    plan = _plan(_arrival(repeated=True), "a")
    (errand,) = plan.errands[0]
    errand.made = errand.made._replace(message_id="first")
    assert plan.struck() == {"agent.planner": [("first", []), ("m", [])]}
