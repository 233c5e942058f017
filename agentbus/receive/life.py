"""A life at one station, incarnation after incarnation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agentbus.errors import BrokerUnavailable
from agentbus.events import Events
from agentbus.message.backoff import Backoff
from agentbus.receive.incarnation import Incarnation

#: Makes the next incarnation; told whether there was one before that had joined.
MakeIncarnation = Callable[[bool], Incarnation]


class Life:
    """Joins, works, and begins anew under another name whenever the lease was lost."""

    def __init__(self, make: MakeIncarnation, events: Events) -> None:
        self._make = make
        self._events = events
        self._ready = asyncio.Event()
        self._joined_before = False
        self.incarnation: Incarnation | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Live until ``stop`` is set; raises what a failed child raised."""
        while not stop.is_set():
            if await self._join(stop):
                assert self.incarnation is not None
                await _live(self.incarnation, stop, self._ready)

    async def wait_ready(self, living: asyncio.Task[None]) -> bool:
        """Wait until the first incarnation works; False when ``living``, which runs this, ended before."""
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ready, living), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        return self._ready.is_set()

    async def _join(self, stop: asyncio.Event) -> bool:
        """Join as soon as the broker can be reached; False when stopped before.

        Under a new name each time: a join whose reply was lost has taken the old one.
        """
        backoff = Backoff()
        while not stop.is_set():
            incarnation = self._make(self._joined_before)
            try:
                if self.incarnation is not None and self.incarnation.lost is not None:
                    await self.incarnation.hand_over()
                unserved = await incarnation.join()
            except BrokerUnavailable:
                await asyncio.sleep(backoff.next_pause())
                continue
            self._report_lost_data(unserved)
            self.incarnation = incarnation
            return True
        return False

    def _report_lost_data(self, unserved: Sequence[str]) -> None:
        """An address that this process has served and the broker does not know was lost with its data."""
        for address in unserved if self._joined_before else ():
            self._events.emit("data_lost", address, "the broker has forgotten that it was ever served")
        self._joined_before = True


async def _live(incarnation: Incarnation, stop: asyncio.Event, ready: asyncio.Event) -> None:
    try:
        await incarnation.live(stop, ready.set)
    except BaseExceptionGroup as group:
        # One failed child ended the others; the user wants its error, not the group around it.
        _, rest = group.split(asyncio.CancelledError)
        if rest is not None:
            raise first_error(rest) from group
        raise


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error inside nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
