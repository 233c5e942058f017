"""A row of receipts as people see it."""

from __future__ import annotations

import pytest

from agentbus.broker.receipts import Row
from agentbus.errors import InvalidValue
from agentbus.recipients.receipt import check_level, receipt_of


def test_what_a_later_mark_proves_is_not_left_open() -> None:
    shown = receipt_of(Row("ann", stored=1_000, processed=3_000)).to_record()
    assert shown == {
        "agent": "ann",
        "stored_at": "1970-01-01T00:00:01.000Z",
        "delivered_at": "1970-01-01T00:00:03.000Z",
        "read_at": "1970-01-01T00:00:03.000Z",
        "processed_at": "1970-01-01T00:00:03.000Z",
        "refused": None,
        "acknowledged": False,
    }
    delivered = receipt_of(Row("ann", delivered=2_000))
    assert delivered.reached("stored") and not delivered.reached("read")


def test_a_mark_that_was_written_late_is_shown_no_later_than_the_step_after_it() -> None:
    """The end, where its mark was lost, is that of the record: it was before the mark of read."""
    shown = receipt_of(Row("ann", stored=1_000, delivered=2_020, read=2_020, processed=2_000))
    assert shown.stored_at and shown.processed_at
    assert shown.delivered_at == shown.read_at == shown.processed_at > shown.stored_at


def test_a_refusal_that_a_later_attempt_has_overcome_is_none() -> None:
    assert receipt_of(Row("ann", unstored="QueueFull: …")).refused == "QueueFull: …"
    assert receipt_of(Row("ann", stored=1_000, unstored="QueueFull: …")).refused is None
    assert receipt_of(Row("ann", stored=1_000, ended="dead: exhausted")).refused == "dead: exhausted"
    # Somebody retried the dead letter, and it went well.
    assert receipt_of(Row("ann", stored=1_000, ended="dead: exhausted", processed=2_000)).refused is None


def test_only_what_happens_can_be_waited_for() -> None:
    assert check_level("read") == "read"
    with pytest.raises(InvalidValue, match="'seen' is none of stored, delivered, read, processed"):
        check_level("seen")
