"""What an agent declares before and while it is served."""

from __future__ import annotations

import asyncio

import pytest

from agentbus import Agent
from agentbus.bindings.companion import checked_consent
from agentbus.errors import ConfigurationError, InvalidTopic, InvalidValue


class _Registrar:
    """Writes down what it is told, and lets nobody go on before it is let."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.open = asyncio.Event()

    async def bind(self, pattern: str) -> None:
        self.told.append(("bind", pattern))
        await self.open.wait()

    async def unbind(self, pattern: str) -> None:
        self.told.append(("unbind", pattern))
        await self.open.wait()


async def test_before_serving_a_binding_is_declared_and_cannot_be_waited_for() -> None:
    agent = Agent("observer")
    agent.bind("agent.*.status")
    agent.bind("agent.*.status")
    agent.bind(">", everything=True)
    agent.unbind(">")
    assert agent.bindings.patterns == ("agent.*.status",)
    with pytest.raises(ConfigurationError, match="observer is not served yet"):
        await agent.bind("channel.>")
    assert agent.bindings.patterns == ("agent.*.status", "channel.>")


async def test_while_served_a_change_is_carried_out_also_when_nobody_waits_for_it() -> None:
    agent, registrar = Agent("observer"), _Registrar()
    agent.bindings.attach(registrar)
    waited = asyncio.ensure_future(agent.bind("agent.*.status"))
    agent.unbind("channel.>")
    with pytest.raises(ConfigurationError, match="not in a thread"):
        await asyncio.to_thread(agent.bind, "project.>")
    assert agent.bindings.patterns == ("agent.*.status",)
    await asyncio.sleep(0)
    assert registrar.told == [("bind", "agent.*.status"), ("unbind", "channel.>")]
    assert not waited.done()
    registrar.open.set()
    await waited
    await agent.bindings.settled()


def test_what_is_no_pattern_is_refused_and_not_declared() -> None:
    agent = Agent("observer")
    for pattern in ("agent.>.x", ">", "agents.*.x"):
        with pytest.raises(InvalidTopic):
            agent.bind(pattern)
    assert agent.bindings.patterns == ()


def test_a_consent_is_to_names_or_to_all() -> None:
    assert checked_consent(("observer", "*")) == ("observer", "*")
    for wrong in ("observer", ("Observer",), ("agent.*",)):
        with pytest.raises(InvalidValue, match="copies_to"):
            checked_consent(wrong)
