"""Being known: a served agent registers, says that it lives, and signs off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket

from agentbus.broker.registry import Description, Registry, StoredInstance
from agentbus.errors import BrokerError, BrokerUnavailable, InvalidValue
from agentbus.events import Event, Events
from agentbus.message.backoff import Backoff
from agentbus.message.durations import Duration, milliseconds


class Registration:
    """Keeps one instance of one agent in the registry for as long as it is served."""

    def __init__(self, registry: Registry, agent: Description, heartbeat: Duration, events: Events) -> None:
        beat_ms = milliseconds(heartbeat, "heartbeat")
        if beat_ms == 0:
            raise InvalidValue("heartbeat", "must be longer than zero")
        self._registry = registry
        self._agent = agent
        self._events = events
        self._instance = StoredInstance(_new_id(), socket.gethostname(), os.getpid(), beat_ms)
        self._begun = False
        #: Set when the broker may have forgotten this agent.
        self._doubtful = asyncio.Event()

    async def begin(self) -> None:
        """Register once; what the broker cannot take now is repeated by `run`.

        It does not wait for a broker that went away: nobody could stop the agent meanwhile.
        """
        with contextlib.suppress(BrokerUnavailable):
            await self._say()

    async def run(self) -> None:
        """Beat until cancelled."""
        backoff = Backoff()
        stop_listening = self._events.listen(self._hear)
        try:
            while True:
                await self._pause(self._instance.beat_ms / 1000 if self._begun else backoff.next_pause())
                await self._say_if_possible()
        finally:
            stop_listening()

    def _hear(self, event: Event) -> None:
        # Whoever lost the agent's lease has perhaps lost the registry with it: until the next beat nobody
        # could send to an agent that is there.
        if event.action == "fenced" and event.address == f"agent.{self._agent.name}":
            self._doubtful.set()

    async def _pause(self, pause: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._doubtful.wait()
        self._doubtful.clear()

    async def _say_if_possible(self) -> None:
        # An outage is nothing to report: whoever serves tells of it, and the next beat comes.
        with contextlib.suppress(BrokerUnavailable):
            await self._say()

    async def end(self) -> None:
        """Take this instance out."""
        with contextlib.suppress(BrokerError):
            await self._registry.deregister(self._agent.name, self._instance.id)

    async def _say(self) -> None:
        try:
            before = await self._registry.register(self._agent, self._instance, beat=self._begun)
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            # A key of another type, or a missing right: the agent works on, unlisted, and visibly so.
            self._events.emit("unregistered", f"agent.{self._agent.name}", str(error))
            self._begun = True
            return
        if not self._begun and not self._agent.assumed and before not in (None, self._agent.type):
            self._events.emit(
                "agent_type_changed",
                f"agent.{self._agent.name}",
                f"it was registered as a {before}, and is a {self._agent.type} from now on",
            )
        self._begun = True


def _new_id() -> str:
    """Return an id that no other process has, also one of the same host and process number."""
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
