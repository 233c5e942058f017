"""A look at an agent's place in a channel from outside, by plain commands."""

from __future__ import annotations

from agentbus.broker.connection import Broker
from agentbus.broker.keys import subscriber_keys
from agentbus.errors import BrokerRefused
from tests.agents.process import AgentProcess
from tests.agents.waiting import eventually

#: What ends a message of a log for one agent, as counters.
ENDS = ("processed", "expired", "discarded", "moved", "vanished")


class ChannelLook:
    """Reads one subscriber of one channel."""

    def __init__(self, broker: Broker, prefix: str, channel: str, agent: str) -> None:
        self._broker = broker
        self._agent = agent
        self.keys = subscriber_keys(prefix, channel, agent)

    async def counts(self) -> dict[str, int]:
        reply = await self._broker.execute("HGETALL", self.keys.subscriber)
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return {name.decode(): int(value) for name, value in pairs if value.isdigit()}

    async def count(self, name: str) -> int:
        return (await self.counts()).get(name, 0)

    async def alive(self) -> dict[str, str]:
        reply = await self._broker.execute("HGETALL", self.keys.alive)
        return {name.decode(): beat.decode() for name, beat in zip(reply[::2], reply[1::2], strict=True)}

    async def pending(self) -> int:
        try:
            return int((await self._broker.execute("XPENDING", self.keys.log, self._agent))[0])
        except BrokerRefused:
            return 0

    async def joined(self, process: AgentProcess, within: float = 15.0) -> str:
        """Wait until a process reads; return its consumer name."""

        async def name() -> str | None:
            mine = [each for each in await self.alive() if f".{process.pid}." in each]
            return mine[0] if mine else None

        found = await eventually(name, within)
        assert found is not None
        return found

    async def settled(self, **counts: int) -> None:
        """Wait until counters are as given and nothing is pending; the books must close then."""

        async def reached() -> bool:
            found = await self.counts()
            return all(found.get(name, 0) == count for name, count in counts.items())

        try:
            await eventually(reached, 15.0)
        except AssertionError as error:
            raise AssertionError(f"{await self.counts()}, {await self.pending()} pending") from error
        await self.check_books()

    async def check_books(self) -> None:
        """Fail unless what was handed out has ended or is pending, and the position fits the log."""

        async def closed() -> bool:
            found = await self.counts()
            ended = sum(found.get(name, 0) for name in ENDS)
            return found.get("handed_out", 0) == ended + await self.pending()

        try:
            await eventually(closed, 3.0)
        except AssertionError as error:
            raise AssertionError(f"the books do not close: {await self.counts()}") from error
