"""The door: subscribers of a channel, receipts of one message, cursors that nobody needs any more."""

from __future__ import annotations

import re

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.subscribers import (
    ChannelSubscriber,
    ReadReceipt,
    channel_subscribers,
    find_entry,
    read_receipts,
)
from agentbus.broker.subscription import forget_cursor
from agentbus.errors import InvalidTopic, NoSuchMessage
from agentbus.message.topics import check_name, is_channel, parse_address

#: Messages that are looked through, newest first, to find one by its id.
_MOST_SEARCHED = 100_000
_ENTRY = re.compile(r"(?:log )?([0-9]{1,20}-[0-9]{1,20})")


class Channels:
    """Looks at channels; `Bus.channels`."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker = broker
        self._prefix = prefix

    async def subscribers(self, channel: str) -> list[ChannelSubscriber]:
        """Return every agent that has a cursor at a channel, by name, with how far it is.

        Raises `InvalidTopic` for what is no channel.
        """
        return await channel_subscribers(self._broker, self._prefix, _channel(channel))

    async def receipts(self, channel: str, message: str) -> list[ReadReceipt]:
        """Return what each subscriber did with one message: when it was handed it, and when it had read it.

        ``message`` is a message id, or the entry id that publishing returned, which is found faster. Raises
        `NoSuchMessage` when the log does not hold it (any more), `InvalidTopic`.
        """
        address = _channel(channel)
        entry = _ENTRY.fullmatch(message)
        entry_id = entry[1] if entry else await self._find(address, message)
        return await read_receipts(self._broker, self._prefix, address, entry_id)

    async def forget(self, channel: str, agent: str) -> int:
        """Remove an agent's cursor; returns how many messages it had been handed and not settled.

        A later subscription begins anew. Raises `NoSuchCursor`, and `BrokerRefused` while the agent reads.
        """
        return await forget_cursor(self._broker, self._prefix, _channel(channel), check_name(agent, "agent"))

    async def _find(self, address: str, message_id: str) -> str:
        found = await find_entry(self._broker, self._prefix, address, message_id, _MOST_SEARCHED)
        if found is None:
            raise NoSuchMessage(f"no message {message_id} in the log of {address}, or no longer")
        return found


def _channel(text: str) -> str:
    address = parse_address(text)
    if not is_channel(address):
        raise InvalidTopic(
            "channel", f"{address} is an inbox, which has no subscribers; `Bus.inspect` shows what it holds"
        )
    return address
