"""The reply address of this process: every answer to any of its questions arrives here."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from agentbus.broker.connection import Broker
from agentbus.broker.reply_log import ReplyLog
from agentbus.errors import BrokerError, BrokerUnavailable, MalformedMessage
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.message.codec import decode
from agentbus.message.message import Message
from agentbus.message.reply_address import ReplyAddress, Wants

#: The types of an answer, of a part of one, and of the word that there will be none.
REPLY, PART, FAILURE = "reply", "part", "failure"
#: The type of the word that a question was read and needs no answer; it has no content.
ACKNOWLEDGEMENT = "acknowledgement"
_RENEW_INTERVAL = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, part of one, or word that there will be none."""

    message: Message
    #: When it arrived, in ms of the server's clock.
    at_ms: int


#: Takes a reply; False when nobody waits for it any more.
Take = Callable[[Reply], bool]


class Replies:
    """Receives the answers to this process's questions and hands each to whoever asked."""

    def __init__(self, broker: Broker, prefix: str, events: Events) -> None:
        self._events = events
        self._process = secrets.token_hex(8)
        self._log = ReplyLog(broker, prefix, self._process)
        self._number = 0
        self._open: dict[str, Take] = {}
        #: The last question whose parts came too late: a thousand of them are one event.
        self._late_parts = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()

    def expect(self, wants: Wants, take: Take) -> str:
        """Return the reply address of a new question, whose replies are handed to ``take``."""
        self._number += 1
        reply_to = str(ReplyAddress(self._process, self._number, wants))
        self._open[reply_to] = take
        return reply_to

    def forget(self, reply_to: str) -> None:
        """Take no more answers to a question; what still comes is late."""
        del self._open[reply_to]

    async def start(self) -> None:
        """Make the reply address before the first question names it, as soon as the broker answers."""
        if self._tasks:
            return
        backoff = Backoff()
        async with self._starting:
            while not self._tasks:
                try:
                    await self._log.renew()
                except BrokerUnavailable:
                    await asyncio.sleep(backoff.next_pause())
                    continue
                self._tasks = [
                    asyncio.create_task(self._listen(), name="agentbus replies"),
                    asyncio.create_task(self._renew(), name="agentbus reply address"),
                ]

    async def close(self) -> None:
        """Stop listening and remove the reply address."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._tasks:
            with contextlib.suppress(BrokerError):
                await self._log.close()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_INTERVAL)
            with contextlib.suppress(BrokerError):
                await self._log.renew()

    async def _listen(self) -> None:
        backoff = Backoff()
        while True:
            try:
                for at_ms, text in await self._log.read():
                    self._take(at_ms, text)
                backoff.reset()
                # Whoever got an answer goes on first, and what it asks next leaves before the next read:
                # sending takes as long as all of an answer's way here.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            except BrokerError:
                await self._log.reconnect()
                await asyncio.sleep(backoff.next_pause())
                with contextlib.suppress(BrokerError):
                    # A server that lost its data lost the address too.
                    await self._log.renew()

    def _take(self, at_ms: int, text: bytes) -> None:
        try:
            message = decode(text)
        except MalformedMessage as error:
            self._events.emit("late_reply", "", f"an answer that is no message: {error}")
            return
        take = self._open.get(str(message.reply_to))
        if take is None or not take(Reply(message, at_ms)):
            self._too_late(message)

    def _too_late(self, message: Message) -> None:
        if message.message_type == PART:
            if self._late_parts == message.reply_to:
                return
            self._late_parts = str(message.reply_to)
        self._events.emit(
            "late_reply",
            f"agent.{message.from_agent}",
            f"the answer to {message.causation_id} came after its request had given up",
            message_id=message.causation_id,
        )
