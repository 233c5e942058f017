"""The stream on which one process receives answers to its requests."""

from __future__ import annotations

from agentbus.broker.connection import Broker, Link
from agentbus.broker.keys import reply_log
from agentbus.broker.scripts import Call, load, run
from agentbus.errors import BrokerRefused

#: The log outlives its process by this; a crash leaves nothing for longer.
LIFE_MS = 3_600_000
_BLOCK_MS = 2_000


async def send_reply(broker: Broker, prefix: str, process: str, text: bytes) -> bool:
    """Add an answer to a process's log; False when the process is gone and the log expired."""
    reply = await run(broker, Call(load("reply"), (reply_log(prefix, process),), (text,)))
    return bool(reply)


class ReplyLog:
    """This process's log of answers."""

    def __init__(self, broker: Broker, prefix: str, process: str) -> None:
        self._broker = broker
        self._key = reply_log(prefix, process)
        self._last = b"0-0"
        self._link: Link = broker.open_link()

    async def renew(self) -> bool:
        """Keep the log for another hour; make it when it is not there. True when it had to be made."""
        if await self._broker.execute("PEXPIRE", self._key, LIFE_MS) == 1:
            return False
        try:
            # The only command that makes an empty stream; the group itself is never read.
            await self._broker.execute("XGROUP", "CREATE", self._key, "asker", "$", "MKSTREAM")
        except BrokerRefused as error:
            if "BUSYGROUP" not in str(error):
                raise
        await self._broker.execute("PEXPIRE", self._key, LIFE_MS)
        self._last = b"0-0"
        return True

    async def read(self) -> list[tuple[int, bytes]]:
        """Wait for answers; returns when each came (server time in ms) and its text.

        Empty after two seconds without any.
        """
        reply = await self._link.execute(
            "XREAD", "COUNT", 100, "BLOCK", _BLOCK_MS, "STREAMS", self._key, self._last,
            timeout=_BLOCK_MS / 1000 + 2.0,
        )  # fmt: skip
        found = []
        for entry_id, fields in reply[0][1] if reply else ():
            self._last = entry_id
            text = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"message", b"")
            found.append((int(entry_id.partition(b"-")[0]), text))
        return found

    async def reconnect(self) -> None:
        """Drop the connection; the next read opens a new one."""
        await self._link.close()

    async def close(self) -> None:
        """Remove the log."""
        await self._link.close()
        await self._broker.execute("DEL", self._key)
