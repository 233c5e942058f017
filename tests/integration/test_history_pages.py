"""Pages of the history while messages end, are archived and are trimmed: each end once, or named."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentbus import Bus, BusSettings, HistoryPage
from agentbus.archive.connection import Database
from agentbus.broker.embedded import PrivateBroker
from tests.archiving import Archivist
from tests.past import Past, bodies

#: Examples without and with an archive, which takes longer.
MOST = (25, 12)
#: Streams go entry by entry then, so that a few messages are enough to see retention at work.
EXACT = {"stream-node-max-entries": "1"}

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 5)),
        st.tuples(st.just("end"), st.integers(1, 4)),
        st.tuples(st.just("end"), st.integers(1, 4)),
        st.tuples(st.just("discard"), st.integers(1, 3)),
        st.tuples(st.just("retry"), st.integers(1, 2)),
        st.tuples(st.just("release"), st.integers(1, 2)),
        st.tuples(st.just("archive"), st.integers(1, 6)),
        st.tuples(st.just("killed"), st.integers(1, 6)),
        st.tuples(st.just("trim"), st.integers(0, 6)),
        st.tuples(st.just("page"), st.integers(1, 5)),
    ),
    min_size=5,
    max_size=30,
)


@dataclass
class Reading:
    """Somebody who pages while things go on."""

    oldest_first: bool
    #: What had ended when the first page was asked for, in order.
    expected: list[int] = field(default_factory=list)
    pages: list[HistoryPage] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return bool(self.pages) and self.pages[-1].next is None

    @property
    def found(self) -> list[Any]:
        return bodies([entry for page in self.pages for entry in page.entries])


class Scenario:
    """One inbox, what a plain list says of it, and those who read."""

    def __init__(self, past: Past, archive: Archivist | None) -> None:
        self.past = past
        self.archive = archive
        self.numbers = 0
        self.ended: list[int] = []
        self.readings = [Reading(False), Reading(True)]

    async def step(self, name: str, number: int) -> None:
        verbs: dict[str, Callable[[int], Awaitable[None]]] = {
            "publish": self.publish, "end": self.end, "discard": self.discard, "retry": self.retry,
            "release": self.release, "archive": self.take_over, "killed": self.killed, "trim": self.trim,
            "page": self.page,
        }  # fmt: skip
        await verbs[name](number)

    async def publish(self, number: int) -> None:
        await self.past.publish(*range(self.numbers, self.numbers + number))
        self.numbers += number

    async def end(self, number: int, outcome: str = "processed") -> None:
        await self.past.fetch(number)
        entries = sorted(self.past.held[:number], key=lambda entry: entry.source)
        await self.past.settle(entries, outcome)
        self.ended += [json.loads(entry.message)["body"]["content"] for entry in entries]

    async def discard(self, number: int) -> None:
        await self.end(number, "discarded")

    async def retry(self, number: int) -> None:
        await self.past.fetch(number)
        for entry in self.past.held[:number]:
            await self.past.inbox.postpone("c", entry, 0, "retried", "", entry.entry_id.decode())
        del self.past.held[:number]
        await self.past.inbox.promote(1000)

    async def release(self, number: int) -> None:
        await self.past.fetch(number)
        for entry in self.past.held[:number]:
            await self.past.inbox.release("c", {entry.source: [entry.entry_id]})
        del self.past.held[:number]

    async def killed(self, number: int) -> None:
        """Archive so many records and die after the commit."""
        await self.take_over(number, advance=False)

    async def take_over(self, number: int, advance: bool = True) -> None:
        """Archive so many records, as the worker does."""
        if self.archive is not None:
            await self.archive.records(self.past.address, number, advance)

    async def trim(self, keep: int) -> None:
        await self.past.inbox.trim(keep, 3_600_000, 1 << 30, archived_only=self.archive is not None)

    async def page(self, limit: int) -> None:
        for reading in self.readings:
            if not reading.finished:
                await self.read_on(reading, limit)

    async def read_on(self, reading: Reading, limit: int) -> None:
        if not reading.pages:
            reading.expected = self.ended[:] if reading.oldest_first else self.ended[::-1]
        cursor = reading.pages[-1].next if reading.pages else None
        asked = {"state": "ended", "oldest_first": reading.oldest_first}
        reading.pages.append(await self.past.page(limit, cursor, **asked))

    async def finish(self, limit: int) -> None:
        """Read to the end: those who began on the way, and two who begin now."""
        self.readings += [Reading(False), Reading(True)]
        for reading in self.readings:
            while not reading.finished:
                await self.read_on(reading, limit)
            self.check(reading)

    def check(self, reading: Reading) -> None:
        complete = all(page.complete for page in reading.pages)
        if self.archive is not None:
            assert reading.found == reading.expected
            assert complete
            return
        found = [number for number in reading.found if number is not None]
        left = iter(reading.expected)
        assert all(number in left for number in found), "twice, or out of order"
        # Without an archive retention loses messages, and whoever reads is told.
        assert complete == (found == reading.expected)


@pytest.fixture
def exact_broker(private_broker: Callable[..., PrivateBroker]) -> PrivateBroker:
    return private_broker(config=EXACT)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("archiving", [False, True], ids=["redis", "archive"])
def test_whatever_happens_each_end_comes_once_and_in_order_or_is_said_to_be_missing(
    exact_broker: PrivateBroker, postgres_dsn: str, unique: Callable[[str], str], archiving: bool
) -> None:
    async def run(steps: list[tuple[str, int]], limit: int) -> None:
        chosen = BusSettings(prefix=unique("p"), archive=postgres_dsn if archiving else None)
        database = Database(postgres_dsn)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            bus = await stack.enter_async_context(Bus(exact_broker.url, agent="planner", settings=chosen))
            archivist = await Archivist(bus, database).open() if archiving else None
            scenario = Scenario(await Past(bus, "reviewer").open(), archivist)
            for step in (("publish", 1), *steps):
                await scenario.step(*step)
            await scenario.finish(limit)

    @settings(
        max_examples=MOST[archiving], deadline=None, database=None, suppress_health_check=list(HealthCheck),
        print_blob=True,
    )  # fmt: skip
    @given(steps=_steps, limit=st.integers(1, 6))
    def example(steps: list[tuple[str, int]], limit: int) -> None:
        asyncio.run(run(steps, limit))

    example()
