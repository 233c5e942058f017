"""Declared policies as Redis holds them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from agentbus.broker import keys
from agentbus.broker.connection import Broker
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerError, BrokerOutOfMemory, WrongKeyType

#: Addresses asked of the server at once.
_STEP = 200


@dataclass(frozen=True, slots=True)
class Declared:
    """The answer to a declaration."""

    #: ``declared``, ``same``, or ``conflict``: nothing was written.
    kind: str
    #: What was stored for this scope before.
    before: Mapping[str, str]


class PolicyStore:
    """Reads and writes the policies of addresses and of single message types."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix

    async def declare(
        self, address: str, scope: str, wanted: Mapping[str, str], expected: Mapping[str, str]
    ) -> Declared:
        """Store ``wanted`` for a scope if exactly ``expected`` is stored there, or ``wanted`` itself.

        ``scope`` is a message type, or empty for the whole address.
        """
        await self._note(address)
        given = [part for fields in (expected, wanted) for pair in sorted(fields.items()) for part in pair]
        key = keys.policy(self._prefix, address)
        try:
            call = Call(load("declare"), (key,), (scope, 2 * len(expected), *given))
            reply = [part.decode() for part in await run(self._broker, call)]
        except WrongKeyType as error:
            raise WrongKeyType(f"{key} is not a hash: {error}") from error
        return Declared(reply[0], dict(zip(reply[1::2], reply[2::2], strict=True)))

    async def read(self, address: str) -> dict[str, str]:
        """Return all that is declared for an address, as it is stored."""
        return _fields(await self._broker.execute("HGETALL", keys.policy(self._prefix, address)))

    async def walk(self) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """Yield every address in use that has a policy, and what is stored."""
        cursor = b"0"
        while True:
            cursor, names = await self._broker.execute(
                "SSCAN", keys.addresses(self._prefix), cursor, "COUNT", _STEP
            )
            addresses = [name.decode(errors="replace") for name in names]
            asked = [("HGETALL", keys.policy(self._prefix, address)) for address in addresses]
            replies = await self._broker.pipeline(asked) if asked else []
            for address, reply in zip(addresses, replies, strict=True):
                if isinstance(reply, BrokerError):
                    raise reply
                if reply:
                    yield address, _fields(reply)
            if cursor == b"0":
                return

    async def _note(self, address: str) -> None:
        """Add the address to those in use, so that its policy is found; a full server refuses that."""
        try:
            await self._broker.execute("SADD", keys.addresses(self._prefix), address)
        except BrokerOutOfMemory:
            return


def _fields(reply: list[bytes]) -> dict[str, str]:
    return {field.decode(): value.decode() for field, value in zip(reply[::2], reply[1::2], strict=True)}
