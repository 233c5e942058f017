"""What a slow reader of live events gets: the newest, and a mark of what is missing in its place."""

from __future__ import annotations

from agentbus.live.buffer import WatchBuffer
from agentbus.live.gap import WatchGap
from agentbus.message.message import Message


def _message(number: int) -> Message:
    return Message({"message_id": str(number), "message_type": "status"})


def _all(buffer: WatchBuffer) -> list[str | WatchGap]:
    taken = []
    while buffer:
        item = buffer.take()
        taken.append(item if isinstance(item, WatchGap) else item.message_id)
    return taken


def test_what_fits_comes_out_as_it_went_in() -> None:
    buffer = WatchBuffer(3)
    for number in range(3):
        buffer.put(_message(number))
    assert _all(buffer) == ["0", "1", "2"]
    assert not buffer


def test_an_overflow_is_counted_before_what_is_left() -> None:
    buffer = WatchBuffer(2)
    for number in range(7):
        buffer.put(_message(number))
    assert _all(buffer) == [WatchGap(5), "5", "6"]


def test_two_overflows_are_two_gaps() -> None:
    buffer = WatchBuffer(2)
    for number in range(3):
        buffer.put(_message(number))
    assert buffer.take() == WatchGap(1)
    for number in range(3, 5):
        buffer.put(_message(number))
    assert _all(buffer) == [WatchGap(2), "3", "4"]


def test_a_lost_connection_that_overflows_makes_the_number_unknown() -> None:
    buffer = WatchBuffer(2)
    buffer.put(_message(0))
    buffer.put(WatchGap(None))
    buffer.put(_message(1))
    assert _all(buffer) == [WatchGap(1), WatchGap(None), "1"]
    for item in (_message(2), WatchGap(None), _message(3), _message(4)):
        buffer.put(item)
    assert _all(buffer) == [WatchGap(None), "3", "4"]
