"""From what a caller gives to what travels."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentbus.errors import InvalidValue
from agentbus.message.codec import decode
from agentbus.message.policy import Retry
from agentbus.send.envelope import Sender, compose, wants_disk

TOPIC = "agent.reviewer.task"
ME = Sender("planner", "planning")


def outgoing(body: Any = 1, **options: Any) -> Any:
    return compose(ME, TOPIC, body, options, 1_000_000)  # type: ignore[arg-type]


def test_a_plain_message_needs_nothing_but_its_lane() -> None:
    sent = outgoing()
    assert (sent.lane, sent.option, sent.durability) == (2, None, None)


def test_ids_are_never_repeated_and_sort_by_time() -> None:
    ids = [outgoing().message_id for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)


def test_every_option_that_the_receiver_reads_travels() -> None:
    sent = outgoing(
        {"x": 1}, priority="high", ttl="10m", correlation_id="c", causation_id="d", session_id="s",
        project="p", reply_to="reply.x.1", trace={"traceparent": "t"}, context={"a": 1}, metadata={"b": 2},
        extra={"mine": 3}, retry=Retry(max_retries=7, retry_delay="2s", when_exhausted="discard"),
    )  # fmt: skip
    message = decode(sent.text)
    assert (message.from_agent, message.from_type, message.to_agent) == ("planner", "planning", "reviewer")
    assert (message.priority, message.ttl) == ("high", 600.0)
    assert (message.correlation_id, message.causation_id, message.session_id) == ("c", "d", "s")
    assert (message.project, message.reply_to, message.trace) == ("p", "reply.x.1", {"traceparent": "t"})
    assert (message.context, message.metadata, message.envelope["mine"]) == ({"a": 1}, {"b": 2}, 3)
    assert message.delivery == {"max_retries": 7, "retry_delay": 2.0, "when_exhausted": "discard"}
    assert message.timestamp is not None


ANYTHING = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=2)) | (
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)
)  # fmt: skip
OPTIONS = st.dictionaries(
    st.sampled_from(["priority", "ttl", "delay", "at", "key", "durability", "strict", "retry", "require_ack",
                     "context", "metadata", "correlation_id", "reply_to", "trace", "extra"]),
    ANYTHING, max_size=3,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(OPTIONS, ANYTHING)
def test_whatever_publish_takes_its_receiver_can_read(options: dict[str, Any], body: Any) -> None:
    try:
        sent = outgoing(body, **options)
    except InvalidValue:
        return
    message = decode(sent.text)
    assert message.message_id == sent.message_id
    assert message.content == body


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(
    ["ttl", "channel", "recipients", "recipient_mode", "timestamp", "delivery", "trace", "reply_to", "body",
     "version", "mine"]), ANYTHING, min_size=1))  # fmt: skip
def test_no_extra_field_replaces_one_that_receivers_understand(extra: dict[str, Any]) -> None:
    if set(extra) == {"mine"}:
        assert decode(outgoing(extra=extra).text).envelope.get("mine") == extra["mine"]
    else:
        with pytest.raises(InvalidValue, match="extra: "):
            outgoing(extra=extra)


def test_the_digest_of_a_key_tells_messages_apart_and_not_the_order_of_fields() -> None:
    def digest(body: Any = 1, topic: str = TOPIC, **options: Any) -> str:
        found: str = compose(ME, topic, body, {"key": "k", **options}, 10_000).option["digest"]  # type: ignore
        return found

    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    different = [digest(), digest(2), digest("1"), digest(priority="high"), digest(ttl=5), digest(delay=5),
                 digest(topic="agent.reviewer.question"), digest(context={"x": 1})]  # fmt: skip
    assert len(set(different)) == len(different)


def test_a_key_belongs_to_its_sender() -> None:
    keys = {compose(Sender(name), TOPIC, 1, {"key": "k"}, 10_000).option["key"] for name in ("a", "b", None)}  # type: ignore[index]
    assert keys == {"a/k", "b/k", "/k"}


def test_only_critical_and_high_want_the_disk_and_only_when_nothing_was_said() -> None:
    wanting = [
        p for p in ("critical", "high", "normal", "low", "background") if wants_disk(outgoing(priority=p))
    ]
    assert wanting == ["critical", "high"]
    assert not wants_disk(outgoing(priority="critical", durability="stream"))


def test_an_unknown_option_is_named_with_those_that_exist() -> None:
    with pytest.raises(InvalidValue, match=r"prority: .*priority"):
        outgoing(prority="high")
