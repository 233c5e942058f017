"""The bus: what users hold. Its calls are in `agentbus.facade`, by what they are for."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from agentbus.broker.keys import check_prefix
from agentbus.events import Events
from agentbus.facade.asking import AskingCalls
from agentbus.facade.declaring import DeclaringCalls
from agentbus.facade.looking import LookingCalls
from agentbus.facade.mending import MendingCalls
from agentbus.facade.rooms import Rooms, open_rooms
from agentbus.facade.sending import SendingCalls
from agentbus.facade.serving import ServingCalls
from agentbus.facade.talking import TalkingCalls
from agentbus.message.topics import check_name
from agentbus.send.envelope import Sender
from agentbus.settings import (
    BusSettings,
    broker_url,
    default_agent,
    default_settings,
)

if TYPE_CHECKING:
    from agentbus.receive.pulling import Puller


class Bus(SendingCalls, AskingCalls, TalkingCalls, ServingCalls, LookingCalls, MendingCalls, DeclaringCalls):
    """One process's place on the bus.

    ``url`` is ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; left out, AGENTBUS_URL is used.
    ``agent`` is the name messages are sent under. Use it as an async context manager; opening checks that
    the server is safe to use, and raises `NoBroker`, `BrokerUnavailable` or `UnsafeBroker`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        agent: str | None = None,
        type: str | None = None,
        settings: BusSettings | None = None,
    ) -> None:
        self._url = broker_url(url)
        name = agent if agent is not None else default_agent()
        self._sender = Sender(check_name(name, "agent") if name is not None else None, type or name)
        self.settings = settings or default_settings()
        check_prefix(self.settings.prefix)
        #: What happened that nobody asked for; see `agentbus.events`.
        self.events = Events()
        self._rooms: Rooms | None = None
        self._pulls: dict[str, Puller] = {}
        #: Those of `pulling` blocks; a loop left with `break` may still be handing back when the bus closes.
        self._pullers: set[Puller] = set()

    async def __aenter__(self) -> Bus:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and check the server."""
        if self._rooms is None:
            self._rooms = await open_rooms(
                self._url, self._sender, self.settings, self.events, self._composed
            )

    async def close(self) -> None:
        """Send what is buffered, hand back what was pulled, disconnect."""
        rooms, self._rooms = self._rooms, None
        if rooms is None:
            return
        for puller in (*self._pulls.values(), *self._pullers):
            await puller.close()
        self._pulls.clear()
        await rooms.close()

    def __repr__(self) -> str:
        return f"<Bus {'open' if self._rooms else 'closed'} as {self._sender.agent or 'anonymous'}>"
