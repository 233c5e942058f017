"""Copies that are owed, as Redis holds them. Scripts that store messages note them; here they are found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from agentbus.broker import keys
from agentbus.broker.connection import Argument, Broker
from agentbus.broker.scripts import Call, load, run
from agentbus.broker.wake import Claim, Wake
from agentbus.errors import BrokerError, WrongKeyType

#: Messages, and bytes of them, that one call tells of.
_MOST, _MOST_BYTES = 100, 1_048_576
#: How long nobody else looks at an address that somebody has taken to look at, in ms.
_CLAIM_MS = 10_000
#: Messages that one step of a walk returns, at least.
_STEP = 100


class Record(NamedTuple):
    """One message of which copies are owed."""

    message_id: str
    #: See `agentbus.message.owed.parse_debt`; empty when somebody removed it by hand.
    text: bytes


class Overdue(NamedTuple):
    """What is owed at one address, and was not made in time."""

    #: The oldest first; there may be more of them.
    records: Sequence[Record]
    server_ms: int
    #: When the next one comes to be overdue; None when there is none.
    next_ms: int | None


class DebtStore:
    """Which addresses owe copies, and which."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._owing = Wake(broker, keys.owing(prefix))

    # --- where ---

    async def announce(self, address: str, look_ms: int) -> None:
        """Say when an address needs a look, in ms of the server's clock; of two looks the earlier counts."""
        try:
            await self._owing.announce(address, look_ms)
        except WrongKeyType as error:
            raise WrongKeyType(f"{keys.owing(self._prefix)} is not a sorted set") from error

    async def claim(self, most: int) -> tuple[Claim, ...]:
        """Take addresses whose look has come; nobody else has them for ten seconds."""
        return (await self._owing.claim(most, _CLAIM_MS)).claims

    async def settle(self, claim: Claim, next_ms: int) -> None:
        """Say when an address that was looked at needs its next look."""
        await self._owing.settle(claim, next_ms)

    async def forget(self, address: str) -> None:
        """Take off an address that is no more."""
        await self._owing.withdraw(address)

    async def addresses(self) -> list[str]:
        """Return every address at which copies may be owed."""
        found = await self._broker.execute("ZRANGE", keys.owing(self._prefix), 0, -1)
        return [address.decode(errors="replace") for address in found]

    async def unannounced(self, addresses: Sequence[str]) -> list[str]:
        """Return those addresses where copies are owed and of which nobody is told."""
        owed = await self._broker.pipeline([("ZCARD", self._keys(address)[0]) for address in addresses])
        owing = [
            address for address, many in zip(addresses, owed, strict=True) if isinstance(many, int) and many
        ]
        scores = await self._owing.scores(owing) if owing else []
        return [address for address, score in zip(owing, scores, strict=True) if score is None]

    # --- what ---

    async def overdue(self, address: str) -> Overdue:
        """Return what is owed at an address and was not made in time."""
        reply = await self._run("overdue", address, _MOST, _MOST_BYTES)
        items = iter(reply[2:])
        records = [
            Record(name.decode(errors="replace"), text) for name, text in zip(items, items, strict=True)
        ]
        return Overdue(records, int(reply[0]), int(float(reply[1])) if reply[1] else None)

    async def strike(self, address: str, items: Iterable[tuple[str, Sequence[str]]]) -> int:
        """Strike off copies: (message id, agents; none means all); returns how many messages ended."""
        whole, partly = list[str](), list[str]()
        for message_id, agents in items:
            if agents:
                partly += (message_id, ",".join(agents))
            else:
                whole.append(message_id)
        if not whole and not partly:
            return 0
        return int(await self._run("strike", address, len(whole), *whole, *partly))

    async def older_than(self, addresses: Sequence[str], age_ms: int) -> list[int | BrokerError]:
        """Return, for each address, of how many messages copies have been overdue for so long."""
        seconds, microseconds = await self._broker.execute("TIME")
        before = int(seconds) * 1000 + int(microseconds) // 1000 - age_ms
        return await self._broker.pipeline(
            [("ZCOUNT", self._keys(address)[0], "-inf", before) for address in addresses]
        )

    async def records(self, address: str) -> AsyncIterator[Record]:
        """Yield everything that is owed at an address."""
        cursor = b"0"
        while True:
            key = self._keys(address)[1]
            cursor, flat = await self._broker.execute("HSCAN", key, cursor, "COUNT", _STEP)
            for name, text in zip(flat[::2], flat[1::2], strict=True):
                yield Record(name.decode(errors="replace"), text)
            if cursor == b"0":
                return

    def _keys(self, address: str) -> tuple[str, str]:
        return keys.owed(self._prefix, address)

    async def _run(self, name: str, address: str, *arguments: Argument) -> Any:
        try:
            return await run(self._broker, Call(load(name), self._keys(address), arguments))
        except WrongKeyType as error:
            index, messages = self._keys(address)
            raise WrongKeyType(f"{index} is not a sorted set, or {messages} not a hash") from error
