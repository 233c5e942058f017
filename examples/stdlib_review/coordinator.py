"""The coordinator: starts broker and analysts, sends the tasks, takes the results, and causes trouble."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentbus import Bus, Delivery
from agentbus.broker.embedded import PrivateBroker, find_server
from agentbus.message.policy import PRIORITIES, Priority
from agentbus.receive.pulling import Puller
from agentbus.settings import embedded_server
from examples.stdlib_review.corpus import priority
from examples.stdlib_review.display import Display
from examples.stdlib_review.messages import TASK_TOPIC, FileTask, TaskResult
from examples.stdlib_review.processes import AnalystProcess
from examples.stdlib_review.records import Records, Sent

_ANALYSTS = 4
_WATCH_SECONDS = 0.2


class ReviewFailed(Exception):
    """The review could not be brought to its end; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens when. Shares are of the files reviewed."""

    kill_at: float = 0.25
    stop_at: float = 0.55
    #: Seconds without any result after which the coordinator gives up.
    patience: float = 60.0


class Coordinator:
    """One review of a library."""

    def __init__(self, tasks: Sequence[FileTask], display: Display, plan: Plan | None = None) -> None:
        self.records = Records()
        self._tasks = tasks
        self._display = display
        self._plan = plan or Plan()
        self._analysts: list[AnalystProcess] = []
        #: Those whose end is no surprise.
        self._dismissed: set[str] = set()
        self._news = asyncio.Condition()
        self._given_up = False

    async def run(self) -> Records:
        """Run the whole review; raises `ReviewFailed` when it cannot go as planned."""
        async with PrivateBroker(find_server(embedded_server())) as broker:
            self._display.note(f"broker: {broker.binary}")
            async with (
                Bus(broker.url, agent="coordinator") as bus,
                bus.pulling("coordinator") as inbox,
                self._crew(broker.url),
            ):
                await self._review(bus, inbox)
                await self._take_late_results(inbox)
        return self.records

    @asynccontextmanager
    async def _crew(self, url: str) -> AsyncIterator[None]:
        """Start the analysts; see to it that none outlives the block."""
        try:
            for number in range(1, _ANALYSTS + 1):
                self._analysts.append(AnalystProcess(f"analyst-{number}", url, self._on_journal))
            yield
        finally:
            for analyst in self._analysts:
                analyst.end_now()

    async def _review(self, bus: Bus, inbox: Puller) -> None:
        """Send, collect and cause trouble at the same time, until everything is answered."""
        try:
            async with asyncio.TaskGroup() as group:
                collecting = group.create_task(self._collect(inbox), name="collect")
                watching = group.create_task(self._watch(), name="watch")
                incidents = group.create_task(self._incidents(), name="incidents")
                await self._send(bus)
                await self._until(lambda: self._given_up or (self.records.complete and incidents.done()))
                for task in (collecting, watching, incidents):
                    task.cancel()
        except ExceptionGroup as several:
            # The first failure has cancelled the rest; the others are its echo.
            raise several.exceptions[0] from None

    async def _send(self, bus: Bus) -> None:
        """Publish a task per file, the critical ones last: they overtake the rest."""
        by_priority: dict[Priority, list[FileTask]] = defaultdict(list)
        for task in self._tasks:
            by_priority[priority(task.name)].append(task)
        for level in reversed(PRIORITIES):
            await self._send_level(bus, level, by_priority[level])

    async def _send_level(self, bus: Bus, level: Priority, tasks: list[FileTask]) -> None:
        published_at = time.time()
        for task, stored in zip(
            tasks, await bus.publish_many(TASK_TOPIC, tasks, priority=level), strict=True
        ):
            if isinstance(stored, Exception):
                raise ReviewFailed(f"{task.name} could not be sent: {stored}") from stored
            self.records.sent[stored.message_id] = Sent(task.name, level, published_at)

    async def _collect(self, inbox: Puller) -> None:
        while True:
            await self._take(await inbox.next())

    async def _take(self, delivery: Delivery | None) -> None:
        if delivery is None:
            return
        async with delivery:
            result = delivery.body(TaskResult)
            if self.records.take_result(result):
                self._display.reviewed(result.analyst, result.review.name)
        await self._tell_news()

    async def _take_late_results(self, inbox: Puller) -> None:
        """Let the analysts finish, then take results that came twice: they count, too."""
        await asyncio.gather(*(self._dismiss(analyst) for analyst in self._analysts))
        while delivery := await inbox.next(timeout=0.3):
            await self._take(delivery)

    async def _incidents(self) -> None:
        """Kill one analyst in the middle of its work, and later stop another one gently."""
        await self._until(lambda: self._share() >= self._plan.kill_at)
        victim, leaver = self._analysts[2], self._analysts[1]
        self._dismissed.add(victim.name)
        held = await victim.kill_while_holding()
        if not held:
            raise ReviewFailed(f"{victim.name} ended by itself: {victim.last_words()}")
        self.records.held_at_kill |= held
        names = ", ".join(sorted(self._name(task_id) for task_id in held))
        self._display.ended(victim.name, "killed", f"killed {victim.name} while it held {names}")
        await self._until(lambda: self._share() >= self._plan.stop_at)
        code = await self._dismiss(leaver)
        self._display.ended(
            leaver.name, "stopped", f"stopped {leaver.name}; it finished its work, exit {code}"
        )
        if code != 0:
            raise ReviewFailed(f"{leaver.name} did not stop cleanly: {leaver.last_words()}")

    def _share(self) -> float:
        return len(self.records.results) / len(self._tasks)

    async def _dismiss(self, analyst: AnalystProcess) -> int:
        self._dismissed.add(analyst.name)
        return await analyst.stop()

    async def _watch(self) -> None:
        """Notice analysts that end by themselves; give up when all have, or nothing comes back any more."""
        answered, since = 0, time.monotonic()
        while not self._given_up:
            await asyncio.sleep(_WATCH_SECONDS)
            for analyst in self._analysts:
                if analyst.ended.is_set() and analyst.name not in self._dismissed:
                    self._dismissed.add(analyst.name)
                    self._display.ended(analyst.name, "died", f"{analyst.name} died: {analyst.last_words()}")
            if self.records.answered.total() > answered:
                answered, since = self.records.answered.total(), time.monotonic()
            silent = time.monotonic() - since > self._plan.patience
            if silent or all(analyst.ended.is_set() for analyst in self._analysts):
                self._display.note("no results come any more; giving up")
                self._given_up = True
            # Also when nothing came: what a killed analyst held may have been begun again meanwhile.
            await self._tell_news()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(condition)

    async def _tell_news(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _on_journal(self, analyst: str, word: str, task_id: str) -> None:
        if word == "begin":
            self.records.begun[task_id] += 1
            self._display.begun(analyst, self._name(task_id))

    def _name(self, task_id: str) -> str:
        sent = self.records.sent.get(task_id)
        return sent.name if sent else task_id
