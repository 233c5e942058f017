"""Role ``reclaim``: the work of consumers that died comes back, also where no other instance is left, and
copies that publishers owed when they died are made.

The judgement and the takeover are those of the subscribers. Several reclaimers may look at the same address
at once: the script compares the beat once more, so each message is taken once and the loser is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from agentbus.broker.inbox import Inbox
from agentbus.broker.sweeping import Walker
from agentbus.errors import AgentBusError
from agentbus.message.message import Message
from agentbus.message.reply_address import PartMark
from agentbus.message.topics import AGENT
from agentbus.receive.delivery import Answer
from agentbus.receive.lease import clock
from agentbus.receive.outcome import Outcome
from agentbus.receive.takeover import Judge, Obituary, Takeover, parked_event
from agentbus.send.envelope import Sender
from agentbus.send.requests import Answering
from workers.inboxes import my_inboxes
from workers.role import Ground, Role, logger
from workers.walk import my_addresses

#: Seconds between two walks over the beats.
_PATROL = 0.5
#: Seconds between looks for copies that publishers owe.
_PAY = 5.0
#: Seconds between ticks of the vigil; by the gap between two of them a process learns that it stood still.
_TICK = 0.25
#: Addresses that are taken over side by side: a long takeover must not keep the walk from the others.
_WIDTH = 8
#: Who tells askers that a takeover made their request a dead letter, where no agent of one name was asked.
_WORKERS = "workers"


class Reclaim(Role):
    """Takes over from the dead of every address."""

    name: ClassVar[str] = "reclaim"
    summary: ClassVar[str] = "work of consumers that died comes back; copies that publishers owe are made"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._judge = Judge(ground.settings.lease, lambda: ground.standing.beat_at)
        self._tell_parked = parked_event(ground.bus.events)
        self._walker = Walker(ground.bus.rooms.broker)
        #: Those addresses that somebody serves.
        self._watched: dict[str, Takeover] = {}
        self._places = asyncio.Semaphore(_WIDTH)
        self._running: set[str] = set()
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Walk over beats, over groups, and over lanes, each at its own pace."""
        settings = self.ground.settings
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._keep_vigil(), name="agentbus reclaim vigil")
            for interval, walk in (
                (_PATROL, self.patrol),
                (settings.strangers, self.visit_strangers),
                (settings.sweep, self.sweep),
                (_PAY, self.pay),
                (settings.sweep, self.list_owing),
            ):
                self._group.create_task(self.every(interval, walk), name=f"agentbus reclaim {walk.__name__}")

    async def _keep_vigil(self) -> None:
        while not self.ground.stopping.is_set():
            self._judge.vigil.tick(clock())
            await self.ground.pause(_TICK)

    # --- the dead ---

    async def patrol(self) -> None:
        """Look at the beats of every address once, and take over from those that stood still for a lease."""
        began, walked = clock(), dict[str, Takeover]()
        try:
            async for inboxes in my_inboxes(self.ground, self):
                walked |= await self._look_at(inboxes)
        except AgentBusError:
            self._judge.doubt()
            raise
        if not self.ground.stopping.is_set():
            # An address that nobody serves any more, or that is another worker's now, is forgotten.
            self._watched = walked
        self._note_refusals()
        self.report.lag_ms = round((clock() - began) * 1000)

    async def _look_at(self, inboxes: Sequence[Inbox]) -> dict[str, Takeover]:
        """Look at some addresses; returns those that somebody serves."""
        asked_at = clock()
        served = await self._walker.beats(inboxes)
        if not self._judge.sound(asked_at):
            return {}
        seen_at, watched, verdicts = clock(), {}, []
        for inbox, beats in served:
            watch = self._watched.get(inbox.address) or self._takeover(inbox)
            watched[inbox.address] = watch
            if dead := watch.look(beats, seen_at):
                verdicts.append((inbox, watch, dead))
        for inbox, watch, dead in verdicts:
            await self._begin(inbox, partial(watch.take, dead, seen_at))
        return watched

    def _takeover(self, inbox: Inbox) -> Takeover:
        return Takeover(inbox, self._judge, self._obituary(inbox).tell, self._tell_parked)

    async def visit_strangers(self) -> None:
        """Take from names that are not alive. That needs no judgement: they hold nothing by right."""
        async for inboxes in my_inboxes(self.ground, self):
            for inbox, names in await self._walker.strangers(inboxes):
                await self._begin(inbox, partial(self._takeover(inbox).take_from_strangers, names))
        self._note_refusals()

    async def _begin(self, inbox: Inbox, take: Callable[[], Awaitable[int]]) -> None:
        """Take over beside the walk, as soon as there is a place for it; one at a time per address."""
        if inbox.address not in self._running:
            self._running.add(inbox.address)
            await self._places.acquire()
            self._group.create_task(self._take(inbox, take), name=f"agentbus takeover {inbox.address}")

    async def _take(self, inbox: Inbox, take: Callable[[], Awaitable[int]]) -> None:
        try:
            if moved := await take():
                logger.info("%s: %s: %d came back from the dead", self.name, inbox.address, moved)
        except AgentBusError as error:
            # The next walk finds what is left.
            self.refused(inbox.address, error)
        finally:
            self._running.discard(inbox.address)
            self._places.release()

    # --- lanes ---

    async def sweep(self) -> None:
        """List lanes that hand-made entries left out of the index."""
        async for inboxes in my_inboxes(self.ground, self):
            await self._walker.sweep(inboxes)
        self._note_refusals()

    # --- dead publishers ---

    async def pay(self) -> None:
        """Make copies that were owed for too long."""
        await self.ground.bus.rooms.debts.pay()

    async def list_owing(self) -> None:
        """Have addresses looked at that somebody's hand took off the list of those that owe copies."""
        async for addresses in my_addresses(self.ground, self.name):
            await self.ground.bus.rooms.debts.announce(addresses)

    def _obituary(self, inbox: Inbox) -> Obituary:
        return Obituary(self.ground.bus.events, _answer_for(self.ground, inbox.address))

    def _note_refusals(self) -> None:
        for address, error in self._walker.take_refusals().items():
            self.refused(address, error)


def _answer_for(ground: Ground, address: str) -> Answer:
    """Return what answers in the name of the agent whose inbox it is: who asked many waits for that name."""
    bus = ground.bus
    kind, _, name = address.partition(".")
    sender = Sender(name if kind == AGENT else _WORKERS, "service")
    answers = Answering(
        bus.rooms.broker, bus.settings.prefix, bus.events, sender, bus.settings.publisher.message_bytes
    )

    async def answer(
        request: Message, content: Any, failure: Outcome | None, mark: PartMark | None = None
    ) -> None:
        problem = None if failure is None else {"reason": failure.reason, "detail": failure.detail}
        await answers.send(request, content, problem, mark)

    return answer
