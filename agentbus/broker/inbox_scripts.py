"""Running scripts on the keys of one inbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentbus.broker.connection import Argument, Broker, Link
from agentbus.broker.keys import InboxKeys, inbox_keys
from agentbus.broker.scripts import Call, load, run, run_all
from agentbus.errors import StaleDelivery, WrongKeyType


class InboxScripts:
    """The keys of one inbox, and scripts run on them."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self.address = address
        self.keys: InboxKeys = inbox_keys(prefix, address)

    async def _run(
        self, name: str, keys: Sequence[str], *arguments: Argument, link: Link | None = None
    ) -> Any:
        try:
            return await run(link or self._broker, Call(load(name), keys, arguments))
        except WrongKeyType as error:
            raise await self._named(error) from error

    async def run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        """Run a script of another room on this address; errors name the key that has the wrong type."""
        return await self._run(name, keys, *arguments)

    async def run_many(
        self, name: str, keys: Sequence[str], steps: Sequence[Sequence[Argument]]
    ) -> list[Any]:
        """Run one script several times in one round trip; a refused step has its `BrokerError` as reply."""
        script = load(name)
        replies = await run_all(self._broker, [Call(script, keys, arguments) for arguments in steps])
        return [await self._named(reply) if isinstance(reply, WrongKeyType) else reply for reply in replies]

    async def _named(self, error: WrongKeyType) -> WrongKeyType:
        """Say which key has the wrong type: the server's own message does not."""
        expected = {
            self.keys.lanes: b"zset", self.keys.due: b"zset", self.keys.delayed: b"hash",
            self.keys.dead: b"stream", self.keys.resolved: b"stream", self.keys.ended: b"stream",
            self.keys.archived: b"hash", self.keys.retention: b"hash", self.keys.alive: b"hash",
            self.keys.started: b"hash", self.keys.cancelled: b"hash",
            self.keys.outcomes: b"stream", self.keys.ledger: b"hash", self.keys.policy: b"hash",
            self.keys.loops_even: b"hash", self.keys.loops_odd: b"hash",
            self.keys.owed: b"zset", self.keys.owed_messages: b"hash",
            **dict.fromkeys(self.keys.sources, b"stream"),
        }  # fmt: skip
        types = await self._broker.pipeline([("TYPE", key) for key in expected])
        wrong = [
            f"{key} is a {found.decode()}, not a {expected[key].decode()}"
            for key, found in zip(expected, types, strict=True)
            if isinstance(found, bytes) and found not in (b"none", expected[key])
        ]
        return WrongKeyType("; ".join(wrong) or str(error))

    def _check(self, reply: Any) -> None:
        """Raise `StaleDelivery` when the script says that its consumer is fenced."""
        if reply[0] == b"fenced":
            raise StaleDelivery(f"the lease on {self.address} was lost; somebody else has its messages now")
