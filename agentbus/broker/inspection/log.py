"""What a channel's log holds, in order."""

from __future__ import annotations

from agentbus.broker.connection import Broker
from agentbus.broker.inspection.ends import Tally
from agentbus.broker.inspection.kept import Kept, Stretch, Window
from agentbus.broker.inspection.look import fields_of, format_id, parse_id
from agentbus.broker.inspection.tailing import read_state
from agentbus.broker.keys import ChannelKeys
from agentbus.errors import BrokerRefused

_MOST = 256


class Log:
    """Reads one channel; takes and writes nothing."""

    def __init__(self, broker: Broker, keys: ChannelKeys) -> None:
        self._broker = broker
        self._keys = keys

    async def tally(self) -> Tally:
        """Return how many messages the log ever took, its newest and its oldest entry."""
        try:
            facts = fields_of(await self._broker.execute("XINFO", "STREAM", self._keys.log))
        except BrokerRefused as error:
            if "no such key" in str(error):
                return Tally(0, (0, 0), None)
            raise
        first = facts["first-entry"]
        return Tally(
            ended=int(facts["entries-added"]),
            newest=parse_id(facts["last-generated-id"]),
            oldest=parse_id(first[0]) if first else None,
        )

    async def read(self, window: Window, most: int) -> Stretch:
        """Return up to ``most`` messages of a window, in one step."""
        size = max(1, min(most, _MOST))
        low = "-" if window.above is None else format_id(window.above[:2])
        high = "+" if window.below is None else format_id(window.below[:2])
        if window.newest_first:
            rows = await self._broker.execute("XREVRANGE", self._keys.log, high, low, "COUNT", size + 1)
        else:
            rows = await self._broker.execute("XRANGE", self._keys.log, low, high, "COUNT", size + 1)
        kept = []
        for entry_id, flat in rows:
            at = parse_id(entry_id)
            if window.holds((*at, 0)):
                fields = fields_of(flat)
                kept.append(
                    Kept(
                        (*at, 0), "logged", "log", entry_id.decode(), at[0], fields.get("message", b""),
                        state=read_state(fields.get("state")),
                    )
                )  # fmt: skip
        # One more was asked for, because the first may be the one where the last step ended.
        more = len(rows) == size + 1
        kept = kept[:size]
        return Stretch(kept, kept[-1].point if more else None)

    async def count(self, window: Window, most: int) -> int | None:
        """Count the messages in a window; None when there are more than ``most``."""
        if window.above is None and window.below is None:
            return int(await self._broker.execute("XLEN", self._keys.log))
        counted = 0
        while counted <= most:
            stretch = await self.read(window, _MOST)
            counted += len(stretch.kept)
            if stretch.resume is None:
                return counted
            window = window.after(stretch.resume)
        return None
