"""Retrying many dead letters: in batches, at a rate, until told to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from agentbus.broker.dead_letters import RETRY_BATCH, LetterBox, RawLetter
from agentbus.dead_letters.letter import dead_letter
from agentbus.dead_letters.selection import DeadLetterFilter

#: Batches in a second at a given rate: a slow rate comes in small steps, not in bursts.
_BATCHES_PER_SECOND = 20
#: Seconds of letters that are sent at once when it falls behind: it looked at many that did not match, or the
#: server stood still.
_MOST_BEHIND = 1.0


@dataclass(frozen=True, slots=True)
class BulkRetry:
    """How far a retry of many letters came."""

    #: Handed out again.
    retried: int = 0
    #: Somebody else retried, resolved or dropped it meanwhile.
    gone: int = 0
    #: Holds no message: edit, resolve or drop it.
    malformed: int = 0
    #: The server refused; the letter is where it was.
    refused: int = 0
    #: Whether everything that matched was gone through; False when it was stopped.
    complete: bool = False

    @property
    def matched(self) -> int:
        """Letters that matched so far."""
        return self.retried + self.gone + self.malformed + self.refused


#: Told after each batch.
Progress = Callable[[BulkRetry], None]


class BulkRetrying:
    """One retry of many letters."""

    def __init__(
        self, by: str, rate: float | None, progress: Progress | None, stop: asyncio.Event | None
    ) -> None:
        self._by = by
        self._rate = rate
        self._progress = progress
        self._stop = stop or asyncio.Event()
        self._began = time.monotonic()
        self.done = BulkRetry()

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for an end."""
        return self._stop.is_set()

    def finished(self) -> BulkRetry:
        """Return the counts; complete unless it was stopped."""
        return replace(self.done, complete=not self.stopped)

    async def run(self, box: LetterBox, wanted: DeadLetterFilter, server_ms: int) -> None:
        """Retry what matches at one address and is dead now: what dies again meanwhile waits."""
        batch: list[str] = []
        size = RETRY_BATCH
        if self._rate is not None:
            size = max(1, min(RETRY_BATCH, int(self._rate / _BATCHES_PER_SECOND)))
        async for raw in _dead_now(box, wanted, server_ms):
            if self.stopped:
                return
            if not _fits(raw, wanted):
                continue
            batch.append(raw.entry_id)
            if len(batch) == size:
                await self._retry(box, batch)
                batch = []
        if batch:
            await self._retry(box, batch)

    async def _retry(self, box: LetterBox, batch: Sequence[str]) -> None:
        await self._keep_pace()
        if self.stopped:
            return
        counts = {"retried": 0, "gone": 0, "malformed": 0, "refused": 0}
        for answer in await box.retry(batch, self._by):
            counts[answer.result] += 1
        self.done = replace(self.done, **{name: getattr(self.done, name) + n for name, n in counts.items()})
        if self._progress is not None:
            self._progress(self.done)

    async def _keep_pace(self) -> None:
        """Wait until the next letters are due; what a pause cost is not made up for in a burst."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._began = max(self._began, now - _MOST_BEHIND - self.done.matched / self._rate)
        pause = self._began + self.done.matched / self._rate - now
        if pause > 0:
            try:
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            except TimeoutError:
                return


def _fits(raw: RawLetter, wanted: DeadLetterFilter) -> bool:
    return wanted.fits_unread(raw) and (not wanted.reads_messages or wanted.fits(dead_letter(raw)))


async def _dead_now(box: LetterBox, wanted: DeadLetterFilter, server_ms: int) -> AsyncIterator[RawLetter]:
    """Yield the letters of one address that died in the time meant and are dead now, oldest first."""
    since, until = wanted.span(server_ms)
    # Not the server's time: ids run ahead of it where its clock was set back.
    last = await box.last()
    if until is not None and until < int(last.partition("-")[0]):
        last = str(until)
    after = f"{since - 1}-18446744073709551615" if since > 0 else None
    async for raw in box.walk("dead", after, newest_first=False, until=last):
        yield raw
