"""A look at an inbox from outside, by plain commands: what scripts report is checked against the keys."""

from __future__ import annotations

from typing import Any

from agentbus import Bus
from agentbus.broker.inbox import Inbox
from agentbus.broker.keys import GROUP, SOURCES
from agentbus.message.topics import parse_address
from tests.agents.waiting import eventually

#: What ends a message, as counters of the ledger.
ENDS = ("processed", "expired", "cancelled", "discarded", "resolved", "moved", "vanished")


class Look:
    """Reads one inbox: that of an agent by its name, or any by its address."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.broker = bus.rooms.broker
        self.inbox = Inbox(self.broker, bus.settings.prefix, parse_address(name))
        self.keys = self.inbox.keys
        #: Ledger and what is held, as of the last look of `check_balance`.
        self.balance: tuple[dict[str, int], int] = ({}, 0)

    async def ledger(self) -> dict[str, int]:
        reply = await self.broker.execute("HGETALL", self.keys.ledger)
        return {name.decode(): int(count) for name, count in zip(reply[::2], reply[1::2], strict=True)}

    async def count(self, name: str) -> int:
        return (await self.ledger()).get(name, 0)

    async def dead(self) -> list[dict[str, bytes]]:
        entries = await self.broker.execute("XRANGE", self.keys.dead, "-", "+")
        return [_fields(fields) for _, fields in entries]

    async def dead_reasons(self) -> list[str]:
        return [letter["reason"].decode() for letter in await self.dead()]

    async def due(self) -> int:
        return int(await self.broker.execute("ZCARD", self.keys.due))

    async def alive(self) -> dict[str, str]:
        return await self.inbox.beats()

    async def group_consumers(self) -> set[str]:
        return {holding.name for holding in await self.inbox.holdings()}

    async def pending(self, consumer: str | None = None) -> int:
        """Entries handed out and not settled, of all consumers or of those whose name contains a text."""
        holdings = await self.inbox.holdings()
        return sum(each.pending for each in holdings if consumer is None or consumer in each.name)

    async def waiting(self) -> int:
        """A walk over every stream from where its group has read to."""
        total = 0
        for stream in self.keys.sources:
            last = await self.last_delivered(stream)
            if last is not None:
                total += len(await self.broker.execute("XRANGE", stream, f"({last}", "+"))
            else:
                total += int(await self.broker.execute("XLEN", stream))
        return total

    async def last_delivered(self, stream: str) -> str | None:
        if not await self.broker.execute("EXISTS", stream):
            return None
        for group in await self.broker.execute("XINFO", "GROUPS", stream):
            fields = _fields(group)
            if fields["name"] == GROUP.encode():
                return fields["last-delivered-id"].decode()
        return None

    async def lengths(self) -> dict[str, int]:
        return {
            source: int(await self.broker.execute("XLEN", stream))
            for source, stream in zip(SOURCES, self.keys.sources, strict=True)
        }

    async def unsettled(self) -> int:
        """Everything that somebody still has to handle."""
        return await self.waiting() + await self.pending() + await self.due()

    async def check_balance(self) -> None:
        """Fail unless the ledger adds up: what was accepted has ended, is dead, or is still here.

        The parts are read one after the other, so while something moves it takes a second look.
        """

        async def balanced() -> bool:
            ledger = await self.ledger()
            ended = sum(ledger.get(name, 0) for name in ENDS)
            held = await self.unsettled() + len(await self.dead())
            self.balance = (ledger, held)
            return ledger.get("accepted", 0) == ended + held

        try:
            await eventually(balanced, 3.0)
        except AssertionError as error:
            raise AssertionError(f"the ledger does not add up: {self.balance}") from error


def _fields(flat: list[Any]) -> dict[str, Any]:
    return {
        name.decode(errors="surrogateescape"): value
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
