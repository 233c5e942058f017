"""The parts of one answer on their way: in order, and each until the broker has it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from agentbus.errors import BrokerUnavailable, InvalidValue, StaleDelivery
from agentbus.message.backoff import Backoff
from agentbus.message.message import Message
from agentbus.message.reply_address import PartMark
from agentbus.receive.delivery import Delivery

#: Sends one part: (request, content, which part); False when the process that asked is gone.
SendPart = Callable[[Message, Any, PartMark], Awaitable[bool]]


class Parts:
    """Sends the parts of one run of a handler."""

    def __init__(self, delivery: Delivery, send: SendPart) -> None:
        self._delivery = delivery
        self._send_one = send
        #: Tells this run from every other of the same message: their parts are not one answer.
        self._run = secrets.token_hex(8)
        self._number = 0
        self._gone = False
        self._turn = asyncio.Lock()

    @property
    def mark(self) -> PartMark:
        """The mark of what is sent next."""
        return PartMark(self._run, self._delivery.attempt, self._number)

    async def send(self, content: Any) -> bool:
        """Send one part behind those before it; False when the process that asked is gone.

        Waits as long as the broker is away: a part that may have arrived is sent again under its number.
        """
        async with self._turn:
            if self._gone:
                return False
            mark = self.mark
            # Counted first: whether a sending that is cancelled has arrived is not known, and the next part
            # under the same number would be taken for it.
            self._number += 1
            try:
                self._gone = not await self._until_answered(content, mark)
            except InvalidValue:
                # Nothing was sent.
                self._number -= 1
                raise
            return not self._gone

    async def _until_answered(self, content: Any, mark: PartMark) -> bool:
        backoff = Backoff()
        while not self._delivery.revoked:
            try:
                return await self._send_one(self._delivery.message, content, mark)
            except BrokerUnavailable:
                await asyncio.sleep(backoff.next_pause())
        raise StaleDelivery
