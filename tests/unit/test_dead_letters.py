"""Values of dead letters: ids, filters, and what becomes of entries that somebody wrote by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from agentbus import DeadLetterFilter, InvalidValue
from agentbus.broker.dead_letters import RawLetter
from agentbus.dead_letters.letter import LetterId, dead_letter, waiting_letter

NOW = 1_800_000_000_000


def raw(due_ms: int | None = None, **fields: object) -> RawLetter:
    stored = {
        name: value if isinstance(value, bytes) else str(value).encode() for name, value in fields.items()
    }
    return RawLetter("agent.r", "1763680000000-0", stored, due_ms)


def test_an_id_is_an_address_and_an_entry_or_a_name_in_due() -> None:
    assert LetterId.parse("agent.r:1763680000000-0") == LetterId("agent.r", "1763680000000-0")
    assert LetterId.parse("agent.r:due:any:name") == LetterId("agent.r", "any:name", in_due=True)


@pytest.mark.parametrize(
    "text", ["", "agent.r", "agent.r:1", "agent.r:due:", "agent.R:1-1", "system.x:1-1", None]
)
def test_what_is_no_id_names_the_field(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        LetterId.parse(text)
    assert caught.value.field == "id"


def test_a_span_counts_durations_from_the_servers_clock() -> None:
    wanted = DeadLetterFilter(since="2h", until="1h")
    assert wanted.span(NOW) == (NOW - 7_200_000, NOW - 3_600_001)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert DeadLetterFilter(since=at, until="2026-01-02T00:00:00Z").span(NOW)[0] == 1_767_225_600_000
    assert DeadLetterFilter().span(NOW) == (0, None)


def test_a_span_that_holds_nothing_is_refused() -> None:
    with pytest.raises(InvalidValue, match="until"):
        DeadLetterFilter(since="1h", until="2h")
    with pytest.raises(InvalidValue, match="until"):
        DeadLetterFilter(since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z")


def test_a_filter_tells_what_it_asks_for() -> None:
    assert str(DeadLetterFilter("r", reason="exhausted")) == "address agent.r, reason exhausted"
    assert str(DeadLetterFilter()) == "all"


@pytest.mark.parametrize("state", ["", "nonsense", "[]", "5", '{"first_failure": 5, "retries": "many"}'])
def test_a_letter_with_a_state_written_by_hand_is_shown_as_it_is(state: str) -> None:
    letter = dead_letter(raw(message="{}", state=state, attempts="x", max_retries="", reason="odd"))
    assert (letter.attempts, letter.retry_count, letter.max_retries, letter.retries) == (0, 0, None, 0)
    assert (letter.message, letter.raw, letter.first_failure) == (None, {"message": b"{}"}, None)


def test_bytes_of_an_entry_that_was_no_message_are_kept() -> None:
    letter = dead_letter(raw(**{"raw:note": b"\x00\xff", "reason": "malformed"}))
    assert letter.raw == {"note": b"\x00\xff"} and letter.message_id is None
    assert json.dumps(letter.to_record())


def test_what_is_due_is_listed_only_when_it_has_failed() -> None:
    message = '{"message_id":"m","message_type":"task"}'
    assert waiting_letter(raw(NOW, message=message, state='{"lane":"low"}')) is None
    failed = waiting_letter(raw(NOW, message=message, state='{"lane":"low","attempt":2}'))
    assert failed is not None and (failed.status, failed.attempts, failed.priority) == ("retrying", 2, "low")
    assert failed.next_retry_at == datetime.fromtimestamp(NOW / 1000, UTC)
    parked = waiting_letter(raw(NOW, message=message, state='{"parked":["reason","crashed","attempts","1"]}'))
    assert parked is not None and (parked.status, parked.reason, parked.type) == ("parked", "crashed", "task")
