"""How deliveries end, on a real broker: every outcome, and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentbus import (
    Agent,
    AlreadySettled,
    Bus,
    Context,
    Defer,
    Delivery,
    Message,
    Reject,
    Retry,
)
from tests.agents.look import Look
from tests.agents.waiting import eventually

SOON = Retry(max_retries=2, retry_delay=0.01)
Unique = Callable[[str], str]


@pytest.fixture
def name(unique: Unique) -> str:
    return unique("worker")


async def settled(look: Look, **counts: int) -> dict[str, int]:
    """Wait until the ledger shows these counts and nothing is in flight; return the ledger."""

    async def reached() -> bool:
        ledger = await look.ledger()
        return all(ledger.get(key, 0) == count for key, count in counts.items()) and not (
            await look.unsettled()
        )

    await eventually(reached)
    await look.check_balance()
    return await look.ledger()


async def test_returning_ends_a_message_as_processed(bus: Bus, name: str) -> None:
    agent, seen = Agent(name), []

    @agent.on("task")
    async def handle(body: Any) -> str:
        seen.append(body)
        return "a result nobody asked for"

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", {"n": 1})
        await settled(Look(bus, name), processed=1)
    assert seen == [{"n": 1}]


async def test_an_exception_is_tried_again_with_a_higher_attempt_and_then_succeeds(
    bus: Bus, name: str
) -> None:
    agent, attempts = Agent(name, retry=SOON), []

    @agent.on("task")
    async def handle(context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            raise ValueError("not yet")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await settled(Look(bus, name), processed=1, retried=2)
    assert attempts == [1, 2, 3]


async def test_exhausted_retries_make_a_dead_letter_with_first_and_last_failure(bus: Bus, name: str) -> None:
    agent, look = Agent(name, retry=SOON), Look(bus, name)

    @agent.on("task")
    async def handle(context: Context) -> None:
        raise ValueError(f"failure {context.attempt}")

    async with bus.serving(agent):
        stored = await bus.publish(f"agent.{name}.task", {"n": 1})
        (letter,) = await eventually(look.dead)
    assert letter["reason"] == b"exhausted"
    assert letter["attempts"] == b"3"
    assert letter["max_retries"] == b"2"
    state = json.loads(letter["state"])
    assert state["first_failure"]["error"] == "ValueError: failure 1"
    assert state["last_failure"]["error"] == "ValueError: failure 3"
    assert json.loads(letter["message"])["message_id"] == stored.message_id
    await look.check_balance()


async def test_when_exhausted_discard_ends_without_a_dead_letter_but_visibly(bus: Bus, name: str) -> None:
    agent = Agent(name, retry=Retry(max_retries=1, retry_delay=0.01, when_exhausted="discard"))

    @agent.on("task")
    async def handle() -> None:
        raise ValueError

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await settled(Look(bus, name), discarded=1, retried=1)
    assert bus.events.counts["discarded"] == 1
    assert await Look(bus, name).dead() == []


async def test_the_options_of_a_message_win_over_the_policy_of_the_handler(bus: Bus, name: str) -> None:
    agent, attempts = Agent(name), []

    @agent.on("task", retry=Retry(max_retries=9, retry_delay="1h"))
    async def handle(context: Context) -> None:
        attempts.append(context.attempt)
        raise ValueError

    async with bus.serving(agent):
        await bus.publish(
            f"agent.{name}.task", None, retry=Retry(max_retries=1, retry_delay=0.01, when_exhausted="discard")
        )
        await settled(Look(bus, name), discarded=1)
    assert attempts == [1, 2]


async def test_reject_makes_a_dead_letter_at_once_with_its_reason(bus: Bus, name: str) -> None:
    agent, look, calls = Agent(name, retry=SOON), Look(bus, name), []

    @agent.on("task")
    async def handle() -> None:
        calls.append(1)
        raise Reject("wrong planet")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        (letter,) = await eventually(look.dead)
    assert (letter["reason"], letter["detail"]) == (b"rejected", b"wrong planet")
    assert len(calls) == 1
    await look.check_balance()


async def test_defer_hands_it_out_again_later_without_spending_an_attempt(bus: Bus, name: str) -> None:
    agent, attempts = Agent(name, retry=Retry(max_retries=0)), []
    redelivered = []

    @agent.on("task")
    async def handle(context: Context) -> None:
        attempts.append(context.attempt)
        redelivered.append(context.delivery.redelivered)
        if len(attempts) < 4:
            raise Defer("10ms")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await settled(Look(bus, name), processed=1, deferred=3, retried=0)
    assert attempts == [1, 1, 1, 1]
    assert redelivered == [False, True, True, True], "its handler has run before"


async def test_a_deferral_that_makes_no_sense_is_a_failure_of_the_handler_not_of_the_agent(
    bus: Bus, name: str
) -> None:
    agent, look = Agent(name, retry=Retry(max_retries=0)), Look(bus, name)

    @agent.on("bad")
    async def bad() -> None:
        raise Defer("next tuesday")

    @agent.on("good")
    async def good() -> None: ...

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.bad", None)
        await eventually(look.dead)
        await bus.publish(f"agent.{name}.good", None)
        await settled(look, processed=1)


async def test_an_exception_that_cannot_be_written_as_text_is_settled_all_the_same(
    bus: Bus, name: str
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    agent, look = Agent(name, retry=SOON), Look(bus, name)

    @agent.on("surrogate")
    async def surrogate() -> None:
        # What open() raises for a file whose name is not UTF-8.
        raise FileNotFoundError("no such file: 'caf\udce9'")

    @agent.on("silent")
    async def silent() -> None:
        raise Unspeakable

    @agent.on("reject")
    async def reject() -> None:
        raise Reject("caf\udce9")

    async with bus.serving(agent):
        for kind in ("surrogate", "silent", "reject"):
            await bus.publish(f"agent.{name}.{kind}", None)

        async def three() -> bool:
            return len(await look.dead()) == 3

        await eventually(three)
        assert sorted(await look.dead_reasons()) == ["exhausted", "exhausted", "rejected"]
        assert await look.count("retried") == 4


async def test_a_handler_that_awaits_something_cancelled_has_failed_and_its_runner_goes_on(
    bus: Bus, name: str
) -> None:
    agent, look = Agent(name, concurrency=1, retry=Retry(max_retries=0)), Look(bus, name)

    @agent.on("cancelled")
    async def cancelled() -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        inner.cancel()
        await inner

    @agent.on("good")
    async def good() -> None: ...

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.cancelled", None)
        assert await eventually(look.dead_reasons) == ["exhausted"]
        await bus.publish(f"agent.{name}.good", None)
        await settled(look, processed=1)


@pytest.mark.parametrize("through", ["delivery", "context"])
@pytest.mark.parametrize("how", ["ack", "reject", "defer", "release", "retry"])
async def test_a_handler_settles_by_itself(bus: Bus, name: str, how: str, through: str) -> None:
    agent, look, calls = Agent(name, retry=Retry(max_retries=5, retry_delay="1h")), Look(bus, name), []

    async def settle(delivery: Delivery) -> None:
        calls.append(delivery.attempt)
        if len(calls) > 1:
            return
        arguments: tuple[Any, ...] = {"defer": ("10ms",), "retry": ("10ms",), "reject": ("no",)}.get(how, ())
        await getattr(delivery, how)(*arguments)
        assert delivery.settled

    if through == "delivery":

        @agent.on("task")
        async def by_delivery(delivery: Delivery) -> None:
            await settle(delivery)

    else:

        @agent.on("task")
        async def by_context(context: Context) -> None:
            await settle(context.delivery)

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        if how == "reject":
            await settled(look, processed=0)
            await eventually(look.dead)
            assert await look.dead_reasons() == ["rejected"]
        else:
            counter = {"ack": "processed", "defer": "deferred", "release": "released", "retry": "retried"}[
                how
            ]
            await settled(look, **{"processed": 1, counter: 1})
    assert calls == {"ack": [1], "reject": [1], "retry": [1, 2]}.get(how, [1, 1])


async def test_settling_twice_raises_and_the_first_one_counts(bus: Bus, name: str) -> None:
    agent, errors = Agent(name), []

    @agent.on("task")
    async def handle(delivery: Delivery) -> None:
        await delivery.ack()
        for again in (delivery.ack, delivery.release, delivery.reject, delivery.retry):
            try:
                await again()
            except AlreadySettled as error:
                errors.append(error)

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await settled(Look(bus, name), processed=1)
    assert len(errors) == 4


async def test_raising_after_settling_changes_nothing(bus: Bus, name: str) -> None:
    agent = Agent(name, retry=SOON)

    @agent.on("task")
    async def handle(delivery: Delivery) -> None:
        await delivery.ack()
        raise ValueError("too late")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await settled(Look(bus, name), processed=1, retried=0)


async def test_a_timeout_counts_as_a_failure_and_cancels_the_handler(bus: Bus, name: str) -> None:
    agent, ends = Agent(name, retry=Retry(max_retries=0)), []

    @agent.on("task", timeout=0.05)
    async def handle() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    look = Look(bus, name)
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        (letter,) = await eventually(look.dead)
    assert ends == ["cancelled"]
    assert b"timeout" in letter["detail"]


async def test_a_timeout_error_of_the_handlers_own_is_reported_as_it_is(bus: Bus, name: str) -> None:
    agent, look = Agent(name, retry=Retry(max_retries=0)), Look(bus, name)

    @agent.on("task", timeout="1m")
    async def handle() -> None:
        raise TimeoutError("the model did not answer")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        (letter,) = await eventually(look.dead)
    assert letter["detail"] == b"TimeoutError: the model did not answer"


async def test_a_plain_function_runs_in_a_thread_and_does_not_stop_the_loop(bus: Bus, name: str) -> None:
    agent, threads = Agent(name, concurrency=3), set()
    together = threading.Barrier(3, timeout=10)

    @agent.on("task")
    def handle(body: Any) -> None:
        threads.add(threading.current_thread())
        together.wait()

    async with bus.serving(agent):
        for _ in range(3):
            await bus.publish(f"agent.{name}.task", None)
        await settled(Look(bus, name), processed=3)
    assert threading.main_thread() not in threads
    assert len(threads) == 3


async def test_a_thread_whose_time_is_up_learns_it_by_context_cancelled(bus: Bus, name: str) -> None:
    agent, look = Agent(name, retry=Retry(max_retries=0)), Look(bus, name)
    noticed = threading.Event()

    @agent.on("task", timeout=0.05)
    def handle(context: Context) -> None:
        deadline = time.monotonic() + 10
        while not context.cancelled and time.monotonic() < deadline:
            time.sleep(0.005)
        if context.cancelled:
            noticed.set()

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        assert await eventually(look.dead_reasons) == ["exhausted"]
        assert await eventually(noticed.is_set)


async def test_stop_iteration_in_a_thread_is_a_failure_like_any_other(bus: Bus, name: str) -> None:
    agent, look = Agent(name, concurrency=1, retry=Retry(max_retries=0)), Look(bus, name)

    @agent.on("task")
    def handle() -> None:
        next(iter(()))

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        assert await eventually(look.dead_reasons) == ["exhausted"]


async def test_middleware_goes_around_the_handler_outermost_first(bus: Bus, name: str) -> None:
    steps: list[str] = []

    def layer(label: str) -> Any:
        async def middleware(delivery: Delivery, call_next: Any) -> Any:
            steps.append(f"{label} in {delivery.message.message_type}")
            result = await call_next(delivery)
            steps.append(f"{label} out")
            return f"{label}({result})"

        return middleware

    agent = Agent(name, middleware=[layer("outer"), layer("inner")])

    @agent.on("question")
    async def handle() -> str:
        steps.append("handler")
        return "answer"

    async with bus.serving(agent):
        assert await bus.request(f"agent.{name}.question", None, timeout=10) == "outer(inner(answer))"
    assert steps == ["outer in question", "inner in question", "handler", "inner out", "outer out"]


async def test_middleware_that_raises_fails_the_delivery(bus: Bus, name: str) -> None:
    async def broken(delivery: Delivery, call_next: Any) -> Any:
        raise Reject("the door is closed")

    agent, look = Agent(name, middleware=[broken]), Look(bus, name)

    @agent.on("task")
    async def handle() -> None: ...

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        assert await eventually(look.dead_reasons) == ["rejected"]


class Review(BaseModel):
    pr: int
    title: str = "none"


@dataclass
class Point:
    x: int
    y: int


class Options(TypedDict):
    verbose: bool


async def test_bodies_arrive_as_the_type_the_handler_asks_for(bus: Bus, name: str) -> None:
    agent, seen = Agent(name), []

    @agent.on("review")
    async def review(body: Review) -> None:
        seen.append(body)

    @agent.on("point")
    async def point(body: Point, message: Message) -> None:
        seen.append((body, message.message_type))

    @agent.on("options")
    async def options(context: Context, *, body: Options) -> None:
        seen.append(body)

    @agent.on("bytes")
    async def raw(body: bytes) -> None:
        seen.append(body)

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.review", Review(pr=7))
        await bus.publish(f"agent.{name}.point", Point(1, 2))
        await bus.publish(f"agent.{name}.options", {"verbose": True})
        await bus.publish(f"agent.{name}.bytes", b"\x00\xff")
        await settled(Look(bus, name), processed=4)
    assert Review(pr=7) in seen
    assert (Point(1, 2), "point") in seen
    assert {"verbose": True} in seen
    assert b"\x00\xff" in seen


@pytest.mark.parametrize("annotation", [Review, Point, Options, int])
async def test_a_body_that_does_not_fit_is_dead_at_once_and_names_the_field(
    bus: Bus, name: str, annotation: Any
) -> None:
    agent, look, calls = Agent(name, retry=SOON), Look(bus, name), []

    async def handle(body: Any) -> None:
        calls.append(body)

    handle.__annotations__["body"] = annotation
    agent.on("task")(handle)
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", {"pr": "not a number", "x": "nor this", "verbose": [1]})
        (letter,) = await eventually(look.dead)
    assert letter["reason"] == b"invalid"
    assert b"body.content" in letter["detail"]
    assert calls == []
    assert await look.count("retried") == 0


async def test_a_value_error_of_the_handler_is_not_mistaken_for_an_invalid_body(bus: Bus, name: str) -> None:
    agent, look = Agent(name, retry=Retry(max_retries=0)), Look(bus, name)

    @agent.on("task")
    async def handle(body: Review) -> None:
        Review.model_validate({"pr": "x"})

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", {"pr": 1})
        assert await eventually(look.dead_reasons) == ["exhausted"]


async def test_the_catch_all_takes_what_has_no_handler_of_its_own(bus: Bus, name: str) -> None:
    agent, seen = Agent(name), []

    @agent.on("task")
    async def task() -> None:
        seen.append("task")

    @agent.on()
    async def rest(message: Message) -> None:
        seen.append(f"rest {message.message_type}")

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", None)
        await bus.publish(f"agent.{name}.whatever.else", None)
        await settled(Look(bus, name), processed=2)
    assert sorted(seen) == ["rest whatever.else", "task"]


async def test_a_type_without_handler_is_dead_at_once_when_nobody_else_serves(bus: Bus, name: str) -> None:
    agent, look = Agent(name), Look(bus, name)
    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.strange", None)
        (letter,) = await eventually(look.dead)
    assert letter["reason"] == b"no_handler"
    assert await look.count("bounced") == 0


async def acquainted(bus: Bus, name: str) -> None:
    """Wait until every one of two instances knows that it is not alone."""
    look = Look(bus, name)
    beats = await eventually(look.alive)

    async def both_looked() -> bool:
        # Housekeeping counts the others at least once between two beats.
        now = await look.alive()
        return len(now) == 2 and all(int(beat.split()[0]) >= 2 for beat in now.values())

    await eventually(both_looked)
    assert beats


async def test_a_type_without_handler_reaches_the_sibling_that_has_one(bus: Bus, name: str) -> None:
    old, new, look, seen = Agent(name), Agent(name), Look(bus, name), []

    @new.on("strange")
    async def handle(body: int) -> None:
        seen.append(body)

    async with bus.serving(old, new):
        await acquainted(bus, name)
        await bus.publish_many(f"agent.{name}.strange", range(40))

        async def ended() -> bool:
            return await look.count("processed") + len(await look.dead()) == 40

        await eventually(ended)
        ledger = await look.ledger()
    # Each may be handed back twice, so about one in eight meets the wrong one three times.
    assert len(seen) == ledger["processed"] > 20
    assert set(await look.dead_reasons()) <= {"no_handler"}
    assert 0 < ledger["bounced"] <= 80
    await look.check_balance()


async def test_a_type_that_no_living_sibling_handles_bounces_twice_at_most_and_is_dead_within_a_second(
    bus: Bus, name: str
) -> None:
    look = Look(bus, name)
    async with bus.serving(Agent(name), Agent(name)):
        await acquainted(bus, name)
        begun = time.monotonic()
        await bus.publish(f"agent.{name}.strange", None)
        assert await eventually(look.dead_reasons) == ["no_handler"]
        assert time.monotonic() - begun < 1.5
    assert await look.count("bounced") == 2
    await look.check_balance()


async def test_what_a_handler_publishes_belongs_to_the_same_conversation(
    bus: Bus, name: str, unique: Unique
) -> None:
    agent, other, seen = Agent(name), Agent(unique("other")), []

    @agent.on("task")
    async def handle(context: Context) -> None:
        await context.publish(f"agent.{other.name}.note", None)

    @other.on("note")
    async def note(message: Message) -> None:
        seen.append(message)

    async with bus.serving(agent, other):
        stored = await bus.publish(f"agent.{name}.task", None, session_id="s-1", project="p-1")
        await settled(Look(bus, other.name), processed=1)
    (message,) = seen
    assert message.causation_id == message.correlation_id == stored.message_id
    assert (message.from_agent, message.session_id, message.project) == (name, "s-1", "p-1")


async def test_a_message_that_expires_before_a_handler_is_free_is_never_run(bus: Bus, name: str) -> None:
    agent, look, ran = Agent(name, concurrency=1), Look(bus, name), []

    @agent.on("task")
    async def handle(body: int) -> None:
        ran.append(body)
        await asyncio.sleep(0.4)

    async with bus.serving(agent):
        await bus.publish(f"agent.{name}.task", 1)
        await eventually(lambda: ran)
        await bus.publish_many(f"agent.{name}.task", [2, 3, 4], ttl=0.05)
        await settled(look, processed=1, expired=3)
    assert ran == [1]


async def test_thousands_that_expired_while_nobody_served_end_counted_and_block_nothing(
    bus: Bus, name: str
) -> None:
    agent, look = Agent(name), Look(bus, name)

    @agent.on("task")
    async def handle() -> None: ...

    await bus.publish_many(f"agent.{name}.task", range(10_000), ttl=0.001)
    await bus.publish(f"agent.{name}.task", "fresh")
    async with bus.serving(agent):
        await settled(look, processed=1, expired=10_000)
