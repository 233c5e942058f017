"""One channel as Redis holds it: a log that grows at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentbus.broker.connection import Argument, Broker
from agentbus.broker.inbox import BatchAnswer, batch_answer
from agentbus.broker.keys import ChannelKeys, channel_keys
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerRefused, WrongKeyType


class Channel:
    """The log of one address: ``channel.<name>``, ``project.<id>`` or ``system.<area>``."""

    def __init__(self, broker: Broker, prefix: str, address: str) -> None:
        self._broker = broker
        self.address = address
        self.keys: ChannelKeys = channel_keys(prefix, address)

    async def publish(
        self,
        producer: str,
        first: int,
        lanes: str,
        options: str,
        texts: Sequence[bytes],
        limits: tuple[int, int, int],
    ) -> BatchAnswer:
        """Append one frozen batch; see ``append.lua``. The same contract as `Inbox.publish`.

        ``lanes`` says nothing here: a log has one order, and the priority stays in the envelope. ``limits``
        are the life of the producer record (ms), the most messages the log may hold, and the window of
        idempotency keys (ms).
        """
        keys = self.keys
        reply = await self._run(
            "append",
            (
                keys.producer + producer, keys.ledger, keys.log, keys.keys_even, keys.keys_odd, keys.policy,
                *((keys.loops_even, keys.loops_odd, keys.owed, keys.owed_messages) if options else ()),
            ),
            first, *limits, options, *texts,
        )  # fmt: skip
        return batch_answer(reply)

    async def last_message(self) -> bytes | None:
        """Return the envelope of the last message as JSON text; None when there is none."""
        entries = await self._broker.execute("XREVRANGE", self.keys.log, "+", "-", "COUNT", 1)
        if not entries:
            return None
        flat = entries[0][1]
        return dict(zip(flat[::2], flat[1::2], strict=True)).get(b"message")

    async def subscribers(self) -> list[str]:
        """Return the names of those who have a cursor in the log, in alphabetical order."""
        try:
            groups = await self._broker.execute("XINFO", "GROUPS", self.keys.log)
        except BrokerRefused as error:
            if "no such key" not in str(error):
                raise
            return []
        named = [dict(zip(group[::2], group[1::2], strict=True))[b"name"] for group in groups]
        return sorted(name.decode(errors="replace") for name in named)

    async def _run(self, name: str, keys: Sequence[str], *arguments: Argument) -> Any:
        try:
            return await run(self._broker, Call(load(name), keys, arguments))
        except WrongKeyType as error:
            raise WrongKeyType("; ".join(await wrong_channel_types(self._broker, self.keys))) from error


async def wrong_channel_types(broker: Broker, keys: ChannelKeys) -> list[str]:
    """Return, for people, every key of a channel that holds another type than it should."""
    expected: Mapping[str, str] = {
        keys.log: "stream", keys.ledger: "hash", keys.policy: "hash",
        keys.keys_even: "hash", keys.keys_odd: "hash", keys.loops_even: "hash", keys.loops_odd: "hash",
        keys.owed: "zset", keys.owed_messages: "hash",
    }  # fmt: skip
    types = await broker.pipeline([("TYPE", key) for key in expected])
    return [
        f"{key} is a {found.decode()}, not a {wanted}"
        for (key, wanted), found in zip(expected.items(), types, strict=True)
        if isinstance(found, bytes) and found.decode() not in ("none", wanted)
    ]
