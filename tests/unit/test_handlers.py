"""What a handler wants is found out when it is registered, and refused there."""

from __future__ import annotations

from typing import Any

import pytest

from agentbus import Agent, ConfigurationError, Context, Delivery, InvalidValue, Message, Retry, Topic


def register(function: Any) -> Any:
    agent = Agent("worker")
    agent.on("task")(function)
    handler = agent.handler_for("task")
    assert handler is not None
    return handler


def test_a_body_alone_needs_no_arguments_built() -> None:
    async def handle(body: Any) -> None: ...

    assert register(handle).plain


def test_plain_functions_are_known_from_coroutine_functions() -> None:
    def plain() -> None: ...

    async def coroutine() -> None: ...

    class Callable:
        async def __call__(self, body: Any) -> None: ...

    assert not register(plain).is_async
    assert register(coroutine).is_async
    assert register(Callable()).is_async


def test_two_bodies_are_refused_with_the_name_of_the_second() -> None:
    async def handle(first: dict[str, Any], second: dict[str, Any]) -> None: ...

    with pytest.raises(ConfigurationError, match="'second'"):
        register(handle)


def test_star_arguments_are_refused() -> None:
    async def handle(*bodies: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="bodies"):
        register(handle)


def test_a_body_type_that_can_never_be_validated_is_refused_where_it_is_written() -> None:
    class Opaque:
        pass

    async def handle(body: Opaque) -> None: ...

    handle.__annotations__["body"] = Opaque
    with pytest.raises(ConfigurationError, match="body"):
        register(handle)


def test_an_annotation_that_is_not_known_is_named() -> None:
    async def handle(body: Any) -> None: ...

    handle.__annotations__["body"] = "Nowhere"
    with pytest.raises(ConfigurationError, match="Nowhere"):
        register(handle)


def test_the_special_parameters_may_come_in_any_order_and_by_keyword() -> None:
    async def handle(delivery: Delivery, context: Context, *, message: Message, body: int) -> None: ...

    assert not register(handle).plain


def test_a_topic_brings_its_type_and_its_body() -> None:
    agent = Agent("worker")

    @agent.on(Topic("agent.worker.task", int))
    async def handle(body: Any) -> None: ...

    assert agent.handler_for("task") is not None


def test_a_second_handler_for_one_type_is_refused() -> None:
    agent = Agent("worker")

    @agent.on("task")
    async def first() -> None: ...

    with pytest.raises(ConfigurationError, match="task"):

        @agent.on("task")
        async def second() -> None: ...


def test_on_without_parentheses_is_explained() -> None:
    with pytest.raises(ConfigurationError, match="parentheses"):
        Agent("worker").on(register)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, "soon", True])
def test_a_timeout_that_makes_no_sense_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidValue, match="timeout"):
        Agent("worker").on("task", timeout=timeout)


def test_the_policy_of_a_handler_is_its_own() -> None:
    agent, own = Agent("worker"), Retry(max_retries=9)

    @agent.on("task", retry=own)
    async def handle() -> None: ...

    handler = agent.handler_for("task")
    assert handler is not None
    assert handler.retry is own
