"""Live events: sent to whoever listens at this moment, and kept nowhere."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agentbus.broker import keys
from agentbus.broker.connection import Broker, Link
from agentbus.errors import BrokerRefused, BrokerUnavailable
from agentbus.message.patterns import ONE, REST, Pattern

#: Seconds of silence after which a listener asks whether its connection still lives, and for the answer.
_QUIET = 5.0


async def emit(broker: Broker, prefix: str, topic: str, text: bytes) -> int:
    """Send one event; return what the server says of who heard it. Raises `BrokerError`; never repeated."""
    return int(await broker.execute("PUBLISH", keys.live(prefix, topic), text))


async def mirror(broker: Broker, prefix: str, texts: Iterable[tuple[str, bytes]]) -> None:
    """Tell listeners of (pattern, envelope) that this was stored, in this order and in one round trip."""
    commands = [("PUBLISH", keys.mirror(prefix, pattern), text) for pattern, text in texts]
    if commands:
        await broker.pipeline(commands)


class Listener:
    """One connection that hears the live events of a pattern, and what is stored under it if asked to."""

    def __init__(self, broker: Broker, prefix: str, pattern: Pattern, stored: bool) -> None:
        self._link: Link = broker.open_link()
        self._prefix = prefix
        self._pattern = pattern
        self._stored = stored
        self._live = keys.live(prefix, "").encode()

    async def subscribe(self) -> None:
        """Connect and subscribe; the server has confirmed when this returns. Raises `BrokerError`."""
        await self._link.close()
        text = self._pattern.text
        if self._stored:
            await self._confirmed("SUBSCRIBE", keys.mirror(self._prefix, text))
        if ONE not in text and REST not in text:
            await self._confirmed("SUBSCRIBE", keys.live(self._prefix, text))
            return
        try:
            await self._confirmed("PSUBSCRIBE", keys.live(self._prefix, text.replace(REST, ONE)))
        except BrokerRefused:
            # Access rules compare patterns by letter. Rights name this one; it hears more, and drops it.
            await self._confirmed("PSUBSCRIBE", keys.live(self._prefix, ONE))

    async def _confirmed(self, command: str, channel: str) -> None:
        await self._link.send(command, channel)
        # What another subscription of this connection hears may come before the answer.
        while (pushed := await self._link.read(_QUIET)) is not None:
            if pushed[0] == command.lower().encode():
                return
        raise BrokerUnavailable(f"no answer to {command} within {_QUIET} s")

    async def next(self) -> bytes:
        """Wait for the next event that matches and return its envelope.

        Raises `BrokerError`; then something may be missed until `subscribe` has returned again.
        """
        heard_at = time.monotonic()
        asked = False
        while True:
            pushed = await self._link.read(_QUIET)
            if pushed is None:
                if asked:
                    raise BrokerUnavailable(f"heard nothing for {time.monotonic() - heard_at:.0f} s")
                await self._link.send("PING")
                asked = True
                continue
            asked = False
            text = self._taken(pushed)
            if text is not None:
                return text

    def _taken(self, pushed: list[bytes]) -> bytes | None:
        """Return the envelope of what was pushed, if it is for this listener."""
        kind, *rest = pushed
        if kind not in (b"message", b"pmessage"):
            return None
        channel, text = rest[-2:]
        # The server's wildcard crosses dots, ours does not.
        if channel.startswith(self._live):
            return (
                text if self._pattern.matches(channel[len(self._live) :].decode(errors="replace")) else None
            )
        return text

    async def close(self) -> None:
        """Disconnect."""
        await self._link.close()
