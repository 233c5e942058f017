"""Removes history beyond what is kept, also where nobody subscribes."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass

from agentbus.broker.inbox import Inbox
from agentbus.broker.retention import ChannelRetention, InboxRetention
from agentbus.errors import BrokerRefused
from agentbus.message.topics import is_channel, is_inbox
from workers import walk
from workers.role import Ground, Role

#: Seconds between passes over the addresses; most of them rest meanwhile.
_PASS_INTERVAL = 1.0
#: Seconds between two looks at one address: at first, and at the longest where nothing happens.
_LOOK_INTERVAL, _LONGEST_INTERVAL = 5.0, 20.0
#: Where history comes so fast that one step is not enough; memory grows by what ends in this time.
_BUSY_INTERVAL = 1.0
#: Age alone makes entries too old: an address is trimmed this often even if nothing happens there.
_IDLE_TRIM_INTERVAL = 300.0
#: Between finding messages missing and counting them.
_SECOND_LOOK = 10.0
#: Steps of each kind at one address in one pass; some 100,000 entries. The rest of a longer history goes in
#: later passes, so that no address waits for another one.
_MOST_STEPS = 50


@dataclass(slots=True)
class _Place:
    """What this process remembers of one address. Losing it costs one look."""

    retention: InboxRetention | ChannelRetention
    look_at: float = 0.0
    rest: float = _LOOK_INTERVAL
    state: Hashable = None
    trimmed_at: float = float("-inf")
    missing: int = 0


class Retention(Role):
    """Goes over its share of the addresses, again and again; those where nothing happens get fewer looks."""

    name = "retention"
    summary = "removes history beyond what is kept: by age, number, bytes and outcome"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._places: dict[str, _Place] = {}
        self._pass_began = time.monotonic()

    async def run(self) -> None:
        """Work until the process stops."""
        await self.every(_PASS_INTERVAL, self._pass)

    async def _pass(self) -> None:
        began, before, found = time.monotonic(), self._pass_began, set()
        async for addresses in walk.my_addresses(self.ground, self.name):
            for address in addresses:
                place = self._place(address)
                if place is not None:
                    found.add(address)
                    await self._look(address, place)
            # How long ago the oldest look was that this pass has not repeated yet.
            self.report.lag_ms = round((time.monotonic() - before) * 1000)
        self._places = {address: place for address, place in self._places.items() if address in found}
        self._pass_began = began
        self.report.lag_ms = round((time.monotonic() - began) * 1000)

    def _place(self, address: str) -> _Place | None:
        place = self._places.get(address)
        if place is None:
            retention = self._retention_of(address)
            if retention is not None:
                place = self._places[address] = _Place(retention)
        return place

    def _retention_of(self, address: str) -> InboxRetention | ChannelRetention | None:
        bus = self.ground.bus
        broker, prefix, kept = bus.rooms.broker, bus.settings.prefix, self.ground.settings.retention
        if is_inbox(address):
            return InboxRetention(broker, Inbox(broker, prefix, address), kept, bus.events)
        if is_channel(address):
            return ChannelRetention(broker, prefix, address, kept, bus.events)
        return None

    async def _look(self, address: str, place: _Place) -> None:
        now = time.monotonic()
        if now < place.look_at or self.ground.stopping.is_set():
            return
        try:
            more = await self._trim(place, now)
            if not more:
                await self._count_missing(address, place)
        except BrokerRefused as error:
            # One address with a key of the wrong type keeps no other from its turn.
            self.refused(address, error)
            place.rest, more = _LONGEST_INTERVAL, False
        place.look_at = now if more else now + place.rest

    async def _trim(self, place: _Place, now: float) -> bool:
        """Trim unless nothing has happened; returns whether there is more to do."""
        state = await place.retention.state()
        if state == place.state and now < place.trimmed_at + _IDLE_TRIM_INTERVAL:
            place.rest = min(2 * place.rest, _LONGEST_INTERVAL)
            return False
        trimmed = await place.retention.trim(_MOST_STEPS)
        # After a cut the next look trims, whatever the state is.
        place.state = None if trimmed.more else state
        place.rest = _BUSY_INTERVAL if trimmed.busy else _LOOK_INTERVAL
        place.trimmed_at = now
        return trimmed.more

    async def _count_missing(self, address: str, place: _Place) -> None:
        missing, counted = await place.retention.missing(place.missing)
        if counted:
            self.ground.bus.events.emit(
                "vanished", address, f"somebody deleted {missing} waiting messages", count=missing
            )
        place.missing = 0 if counted else missing
        if place.missing:
            place.rest = _SECOND_LOOK
