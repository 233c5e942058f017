"""The read-only view of an envelope."""

from __future__ import annotations

from agentbus.message.message import Message


def test_what_was_left_out_reads_as_its_default() -> None:
    message = Message({"message_id": "m", "message_type": "t"})
    assert (message.priority, message.version, message.recipient_mode) == ("normal", 1, "direct")
    assert message.content is None
    assert message.timestamp is None
    assert (message.context, message.metadata, message.delivery, message.trace) == ({}, {}, {}, {})
    assert message.recipients == ()
    for field in ("from_agent", "from_type", "to_agent", "channel", "ttl", "correlation_id", "causation_id",
                  "session_id", "project", "reply_to"):  # fmt: skip
        assert getattr(message, field) is None


def test_it_says_who_wrote_what_to_whom() -> None:
    message = Message({"message_id": "m-1", "message_type": "task", "from_agent": "a", "to_agent": "b"})
    assert repr(message) == "<Message task m-1 from a to b>"


def test_two_views_of_the_same_envelope_are_equal() -> None:
    one, two = (Message({"message_id": "m", "message_type": "t"}) for _ in range(2))
    assert one == two
    assert len({one, two}) == 1
    assert one != "m"
