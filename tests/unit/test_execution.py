"""One delivery through its steps, with the process around it handed in."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from agentbus import Agent, Defer, Reject, Retry
from agentbus.broker.answers import RawEntry
from agentbus.broker.inbox import Inbox
from agentbus.message.address_policy import Policy
from agentbus.receive.delivery import Delivery, Source
from agentbus.receive.execution import Execution, Surroundings
from agentbus.receive.outcome import Kind

NOW_MS = 1_000_000.0


class Around:
    """A process that answers nobody and has no siblings."""

    def __init__(self, siblings: int = 1) -> None:
        self.answers: list[tuple[Any, Any]] = []
        self.siblings = siblings

    async def answer(self, request: Any, content: Any, failure: Any, mark: Any = None) -> None:
        self.answers.append((content, failure))

    def surroundings(self) -> Surroundings:
        async def publish(*_: Any, **__: Any) -> None: ...

        async def send_part(*_: Any) -> bool:
            return False

        return Surroundings(
            publish=publish,
            answer=self.answer,
            send_part=send_part,
            server_ms=lambda: NOW_MS,
            siblings=lambda address: self.siblings,
            policy=lambda address, message_type: Policy(),
        )


class Place:
    """Where a delivery came from."""

    address = "agent.worker"


def delivery(state: dict[str, Any] | None = None, **fields: Any) -> Delivery:
    envelope = {"message_id": "m", "message_type": "task", "body": {"content": 1}, **fields}
    source = Source(cast(Inbox, Place()), 3)
    text = json.dumps(state).encode() if state else b""
    return Delivery(source, RawEntry(3, b"1-0", json.dumps(envelope).encode(), text), 0.0, cast(Any, None))


def raising(error: BaseException, **options: Any) -> Agent:
    agent = Agent("worker", **options)

    @agent.on("task")
    async def handle() -> None:
        raise error

    return agent


async def outcome_of(agent: Agent, given: Delivery, around: Around | None = None) -> Any:
    execution = Execution(agent, (around or Around()).surroundings())
    try:
        return await execution.run(given)
    finally:
        execution.close()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ValueError("x"), Kind.RETRIED, "failed"),
        (Reject("no"), Kind.DEAD, "rejected"),
        (Reject(cast(str, {"not": "text"})), Kind.DEAD, "rejected"),
        (Defer("5s"), Kind.DEFERRED, "deferred"),
        (Defer("never"), Kind.RETRIED, "failed"),
        (Defer(object()), Kind.RETRIED, "failed"),
        (asyncio.CancelledError(), Kind.RETRIED, "failed"),
        (TimeoutError(), Kind.RETRIED, "failed"),
    ],
)
async def test_what_a_handler_raises_decides_the_outcome(
    error: BaseException, kind: Kind, reason: str
) -> None:
    outcome = await outcome_of(raising(error), delivery())
    assert (outcome.kind, outcome.reason) == (kind, reason)


@pytest.mark.parametrize(("attempt", "kind"), [(0, Kind.RETRIED), (2, Kind.RETRIED), (3, Kind.DEAD)])
async def test_the_attempts_that_were_spent_decide_whether_there_is_another(attempt: int, kind: Kind) -> None:
    agent = raising(ValueError(), retry=Retry(max_retries=3))
    assert (await outcome_of(agent, delivery({"attempt": attempt}))).kind is kind


async def test_delivery_options_that_make_no_sense_are_ignored() -> None:
    agent = raising(ValueError(), retry=Retry(max_retries=0))
    given = delivery(delivery={"max_retries": "many", "retry_delay": [], "when_exhausted": 3})
    assert (await outcome_of(agent, given)).kind is Kind.DEAD


async def test_cancelling_the_runner_is_not_a_failure_of_the_handler() -> None:
    agent, begun = Agent("worker"), asyncio.Event()

    @agent.on("task")
    async def handle() -> None:
        begun.set()
        await asyncio.sleep(60)

    running = asyncio.create_task(outcome_of(agent, delivery()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_expired_message_is_not_handled() -> None:
    outcome = await outcome_of(raising(ValueError()), delivery({"expires": NOW_MS - 1}))
    assert outcome.kind is Kind.EXPIRED
    outcome = await outcome_of(raising(ValueError()), delivery({"expires": NOW_MS + 1}))
    assert outcome.kind is Kind.RETRIED


@pytest.mark.parametrize(
    ("bounces", "siblings", "kind"),
    [(0, 1, Kind.DEAD), (0, 2, Kind.BOUNCED), (1, 2, Kind.BOUNCED), (2, 2, Kind.DEAD)],
)
async def test_a_type_without_handler_is_handed_back_twice_while_others_live(
    bounces: int, siblings: int, kind: Kind
) -> None:
    outcome = await outcome_of(Agent("worker"), delivery({"bounces": bounces}), Around(siblings))
    assert outcome.kind is kind


async def test_only_what_has_ended_is_answered_and_only_to_an_asker() -> None:
    around = Around()
    await outcome_of(raising(ValueError()), delivery(reply_to="reply.p.1"), around)
    assert around.answers == [], "it is tried again"
    await outcome_of(raising(Reject("no")), delivery(), around)
    assert around.answers == [], "nobody asked"
    await outcome_of(raising(Reject("no")), delivery(reply_to="reply.p.1"), around)
    ((content, failure),) = around.answers
    assert (content, failure.reason, failure.detail) == (None, "rejected", "no")
