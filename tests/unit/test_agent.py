"""What an agent may be called and told."""

from __future__ import annotations

from typing import Any

import pytest

from agentbus import Agent, InvalidTopic, InvalidValue


def test_its_addresses_are_its_own_name_and_its_pools_each_once() -> None:
    agent = Agent("worker", pools=["pool", "worker", "pool"])
    assert agent.addresses == ("agent.worker", "agent.pool")


def test_the_catch_all_is_asked_last() -> None:
    agent = Agent("worker")

    @agent.on()
    async def anything() -> None: ...

    @agent.on("task")
    async def task() -> None: ...

    found, other = agent.handler_for("task"), agent.handler_for("else")
    assert found is not None
    assert other is not None
    assert (found.function, other.function) == (task, anything)


@pytest.mark.parametrize("name", ["", "Worker", "a.b", "a:b", "{a}", "x" * 64, "-a"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue, match="name"):
        Agent(name)


@pytest.mark.parametrize("concurrency", [0, -1, 10_001, 1.5, "2"])
def test_a_bad_concurrency_is_refused(concurrency: Any) -> None:
    with pytest.raises(InvalidValue, match="concurrency"):
        Agent("worker", concurrency=concurrency)


def test_pools_given_as_one_text_are_refused() -> None:
    with pytest.raises(InvalidValue, match="pools"):
        Agent("worker", pools="reviewers")


@pytest.mark.parametrize("topic", ["agent.ann.task", "agent.other.task", "capability.review.task"])
def test_the_topic_of_an_inbox_is_no_type_of_its_messages(topic: str) -> None:
    with pytest.raises(InvalidTopic, match="a handler is for what comes to its own agent: 'task'"):
        Agent("ann").on(topic)


@pytest.mark.parametrize("topic", ["", "task.", "task.*", "a b", None, 5])
def test_what_is_neither_a_type_nor_a_topic_is_refused(topic: Any) -> None:
    with pytest.raises(InvalidValue, match=r"topic: .* is not a message type"):
        Agent("ann").on(topic)
